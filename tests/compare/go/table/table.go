// Package table turns the lines of a run into Markdown tables. It needs nothing but Go's own library.
package table

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// line is one value of one system in one round.
type line struct {
	Round  int     `json:"round"`
	System string  `json:"system"`
	Figure string  `json:"figure"`
	Value  float64 `json:"value"`
}

// values are those of all rounds by system and figure.
type values map[string]map[string][]float64

// systems is the order of the columns; what it does not name comes behind.
var systems = []string{
	"dpc", "nats-always", "nats", "nats-fast", "nats-move", "nats-copy", "rabbitmq", "artemis", "artemis-move",
}

// row is one of the first table. It shows one value or two, with a sign between them.
type row struct {
	title   string
	figures []string
	sign    string
}

var rows = []row{
	{"push, objects/s", []string{"push"}, ""},
	{"push, CPU s/M, node + client", cpu("push"), " + "},
	{"e2e, objects/s", []string{"e2e"}, ""},
	{"e2e, CPU s/M, node + client", cpu("e2e"), " + "},
	{"drain, objects/s", []string{"drain"}, ""},
	{"drain, CPU s/M, node + client", cpu("drain"), " + "},
	{"latency at 1,000/s, ms: p50; p99", []string{"latency.p50", "latency.p99"}, "; "},
	{"move, objects/s", []string{"move"}, ""},
	{"move, CPU s/M, nodes + client", cpu("move"), " + "},
	{"move-latency at 1,000/s, ms: p50; p99", []string{"move-latency.p50", "move-latency.p99"}, "; "},
}

// ratios are the figures of the second table: rates, and latencies.
var ratios = []string{
	"push", "e2e", "drain", "latency.p50", "latency.p99", "move", "move-latency.p50", "move-latency.p99",
}

func cpu(figure string) []string { return []string{figure + ".cpu_node", figure + ".cpu_client"} }

// Print writes both tables of a file of lines.
func Print(out io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	found, rounds, err := read(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(found) == 0 {
		return fmt.Errorf("%s has no lines", path)
	}
	title := "One round."
	if rounds > 1 {
		title = fmt.Sprintf("Medians of %d rounds; small: the lowest and the highest.", rounds)
	}
	fmt.Fprintf(out, "%s\n\n%s", title, figureTable(found))
	if found["dpc"] != nil && len(found) > 1 {
		fmt.Fprintf(out, "\ndpc / system, of the medians: more is better for dpc in rates, less in latencies.\n\n%s", ratioTable(found))
	}
	return nil
}

// read returns the values of lines, and how many rounds they come from.
func read(in io.Reader) (values, int, error) {
	found, rounds := values{}, 0
	scanner := bufio.NewScanner(in)
	for number := 1; scanner.Scan(); number++ {
		var value line
		if err := json.Unmarshal(scanner.Bytes(), &value); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", number, err)
		}
		if value.System == "" || value.Figure == "" {
			return nil, 0, fmt.Errorf("line %d: without a system or a figure", number)
		}
		if found[value.System] == nil {
			found[value.System] = map[string][]float64{}
		}
		found[value.System][value.Figure] = append(found[value.System][value.Figure], value.Value)
		rounds = max(rounds, value.Round)
	}
	return found, rounds, scanner.Err()
}

// columns are the systems that have values.
func columns(found values) []string {
	var known, others []string
	for _, system := range systems {
		if found[system] != nil {
			known = append(known, system)
		}
	}
	for system := range found {
		if !slices.Contains(systems, system) {
			others = append(others, system)
		}
	}
	slices.Sort(others)
	return append(known, others...)
}

func figureTable(found values) string {
	systems := columns(found)
	table := header("figure", systems)
	for _, row := range rows {
		table += "| " + row.title
		for _, system := range systems {
			table += " | " + cell(row, found[system])
		}
		table += " |\n"
	}
	return table
}

// cell shows the medians of a system, and their range if there is more than one round.
func cell(row row, of map[string][]float64) string {
	var medians, ranges []string
	rounds := 0
	for _, figure := range row.figures {
		all := of[figure]
		if len(all) == 0 {
			return "–"
		}
		medians = append(medians, number(median(all)))
		ranges = append(ranges, number(slices.Min(all))+"–"+number(slices.Max(all)))
		rounds = len(all)
	}
	text := strings.Join(medians, row.sign)
	if rounds > 1 {
		text += " <sub>" + strings.Join(ranges, row.sign) + "</sub>"
	}
	return text
}

func ratioTable(found values) string {
	peers := slices.DeleteFunc(columns(found), func(system string) bool { return system == "dpc" })
	table := header("dpc / system", peers)
	for _, figure := range ratios {
		table += "| " + figure
		for _, peer := range peers {
			table += " | " + ratio(found["dpc"][figure], found[peer][figure])
		}
		table += " |\n"
	}
	return table
}

func ratio(ours, theirs []float64) string {
	if len(ours) == 0 || len(theirs) == 0 || median(theirs) == 0 {
		return "–"
	}
	return number(median(ours) / median(theirs))
}

func header(first string, systems []string) string {
	return "| " + first + " | " + strings.Join(systems, " | ") + " |\n|---" + strings.Repeat("|---", len(systems)) + "|\n"
}

// median of a list that is not empty; of an even number of values the middle between the two middle ones.
func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// number shows three digits that count of a large number, with commas, and two decimals at most of a small one.
func number(value float64) string {
	switch {
	case value < 9.995:
		return fmt.Sprintf("%.2f", value)
	case value < 99.95:
		return fmt.Sprintf("%.1f", value)
	}
	unit := 1.0
	for value/unit >= 999.5 {
		unit *= 10
	}
	digits := fmt.Sprintf("%.0f", float64(int64(value/unit+0.5))*unit)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}
