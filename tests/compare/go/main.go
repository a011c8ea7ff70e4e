// Command compare is the part of tests/compare/run that is written in Go.
//
//	compare load [-seconds S] [-servers PID,…] SYSTEM URL[,URL] FIGURE…
//	compare table FILE
//
// load drives one system and prints each value that it measures as a line of JSON. table prints the Markdown tables of
// the lines of a run.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"compare/table"
)

const usage = "usage: compare load [-seconds S] [-servers PID,…] SYSTEM URL[,URL] FIGURE…\n       compare table FILE"

func main() {
	if len(os.Args) < 2 {
		misused(usage)
	}
	switch arguments := os.Args[2:]; os.Args[1] {
	case "load":
		load(arguments)
	case "table":
		if len(arguments) != 1 {
			misused(usage)
		}
		check(table.Print(os.Stdout, arguments[0]))
	default:
		misused(usage)
	}
}

func load(arguments []string) {
	flags := flag.NewFlagSet("compare load", flag.ExitOnError)
	seconds := flags.Int("seconds", 3, "how long a figure pushes")
	servers := flags.String("servers", "", "the processes of the servers, whose processor time is measured")
	_ = flags.Parse(arguments)
	if flags.NArg() < 3 {
		misused(usage)
	}
	pids, err := numbers(*servers)
	check(err)
	name, urls := flags.Arg(0), strings.Split(flags.Arg(1), ",")
	system, err := open(name, urls)
	check(err)
	bench := &bench{system: system, servers: pids, time: time.Duration(*seconds) * time.Second, backlog: backlog}
	if name == "nats-always" {
		bench.backlog = backlogOfSlow
	}
	for _, figure := range flags.Args()[2:] {
		check(bench.measure(figure))
	}
}

// open connects to the servers of a system.
func open(name string, urls []string) (System, error) {
	switch name {
	case "nats-always", "nats", "nats-move":
		return openNATS(urls, natsOptions{})
	case "nats-fast":
		return openNATS(urls, natsOptions{fastIngest: true})
	case "nats-copy":
		return openNATS(urls, natsOptions{keepsSource: true})
	case "rabbitmq":
		return openRabbitMQ(urls[0])
	}
	return nil, fmt.Errorf("there is no system %q to load", name)
}

func numbers(list string) ([]int, error) {
	var found []int
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		number, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("%q is no process id", word)
		}
		found = append(found, number)
	}
	return found, nil
}

// check ends the program with an error. What fails in a callback of a client library ends it, too: a figure of which a
// part went wrong is none.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func misused(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(2)
}
