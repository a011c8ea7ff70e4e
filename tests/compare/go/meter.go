package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// ticks are the units of /proc/PID/stat in a second: Linux shows 100 to every program.
const ticks = 100

// meter measures how long a figure takes, and the processor time that servers and client spend on it.
type meter struct {
	servers        []int
	start          time.Time
	server, client float64 // seconds at the start
}

func startMeter(servers []int) *meter {
	return &meter{servers, time.Now(), processorTime(servers), ownTime()}
}

// rate prints objects a second, and processor seconds for a million of them.
func (m *meter) rate(figure string, objects int64) {
	seconds := time.Since(m.start).Seconds()
	millions := float64(objects) / 1e6
	emit(figure, float64(objects)/seconds, "objects/s")
	emit(figure+".cpu_node", (processorTime(m.servers)-m.server)/millions, "CPU s/M")
	emit(figure+".cpu_client", (ownTime()-m.client)/millions, "CPU s/M")
}

// ownTime is the processor time of this process.
func ownTime() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

// processorTime is the processor time of processes, of all that live below them, and of all below them that have ended.
func processorTime(roots []int) float64 {
	counted := map[int]bool{}
	for _, pid := range roots {
		counted[pid] = true
	}
	stats := map[int]stat{}
	entries, err := os.ReadDir("/proc")
	check(err)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process may have ended since the folder was read.
		if found, err := readStat(pid); err == nil {
			stats[pid] = found
		}
	}
	total := 0.0
	for pid := range stats {
		if hasRoot(pid, stats, counted) {
			total += stats[pid].seconds
		}
	}
	return total
}

// hasRoot says whether a process is one of the roots or below one.
func hasRoot(pid int, stats map[int]stat, roots map[int]bool) bool {
	for pid > 1 && !roots[pid] {
		pid = stats[pid].parent
	}
	return roots[pid]
}

// stat is what counts in /proc/PID/stat.
type stat struct {
	parent  int
	seconds float64
}

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name, in parentheses, may contain anything: what is read begins behind it with the third field.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	parent, err := strconv.Atoi(string(fields[4-3]))
	sum := 0.0
	for field := 14; field <= 17; field++ { // user and system time, of it and of its children that have ended
		value, _ := strconv.ParseFloat(string(fields[field-3]), 64)
		sum += value
	}
	return stat{parent, sum / ticks}, err
}
