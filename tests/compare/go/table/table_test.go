package table

import (
	"strings"
	"testing"
)

const lines = `{"round":1,"system":"dpc","figure":"push","value":280000,"unit":"objects/s","params":{"size":200}}
{"round":1,"system":"dpc","figure":"push.cpu_node","value":3.7,"unit":"CPU s/M"}
{"round":1,"system":"dpc","figure":"push.cpu_client","value":0.9,"unit":"CPU s/M"}
{"round":1,"system":"dpc","figure":"latency.p50","value":0.3,"unit":"ms"}
{"round":1,"system":"dpc","figure":"latency.p99","value":1.2,"unit":"ms"}
{"round":1,"system":"artemis","figure":"push","value":70000,"unit":"objects/s"}
{"round":1,"system":"artemis","figure":"latency.p50","value":0.6,"unit":"ms"}
{"round":1,"system":"artemis","figure":"latency.p99","value":0.6,"unit":"ms"}
{"round":2,"system":"dpc","figure":"push","value":300000,"unit":"objects/s"}
{"round":2,"system":"dpc","figure":"push.cpu_node","value":4.1,"unit":"CPU s/M"}
{"round":2,"system":"dpc","figure":"push.cpu_client","value":1.1,"unit":"CPU s/M"}
{"round":2,"system":"artemis","figure":"push","value":60000,"unit":"objects/s"}
{"round":3,"system":"dpc","figure":"push","value":100000,"unit":"objects/s"}
{"round":3,"system":"artemis","figure":"push","value":80000,"unit":"objects/s"}
{"round":3,"system":"another","figure":"push","value":1,"unit":"objects/s"}
`

func TestTablesShowMediansRangesAndRatios(t *testing.T) {
	found, rounds, err := read(strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	if rounds != 3 {
		t.Errorf("%d rounds instead of 3", rounds)
	}
	for _, expected := range []string{
		"| figure | dpc | artemis | another |",
		"| push, objects/s | 280,000 <sub>100,000–300,000</sub> | 70,000 <sub>60,000–80,000</sub> | 1.00 |",
		"| push, CPU s/M, node + client | 3.90 + 1.00 <sub>3.70–4.10 + 0.90–1.10</sub> | – | – |",
		"| latency at 1,000/s, ms: p50; p99 | 0.30; 1.20 | 0.60; 0.60 | – |",
		"| drain, objects/s | – | – | – |",
	} {
		contains(t, figureTable(found), expected)
	}
	for _, expected := range []string{
		"| dpc / system | artemis | another |",
		"| push | 4.00 | 280,000 |",
		"| latency.p50 | 0.50 | – |",
		"| latency.p99 | 2.00 | – |",
		"| move | – | – |",
	} {
		contains(t, ratioTable(found), expected)
	}
}

func contains(t *testing.T, table, expected string) {
	t.Helper()
	if !strings.Contains(table, expected+"\n") {
		t.Errorf("no line %q in\n%s", expected, table)
	}
}

func TestMedian(t *testing.T) {
	for _, it := range []struct {
		list     []float64
		expected float64
	}{{[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 100}, 3.5}} {
		if got := median(it.list); got != it.expected {
			t.Errorf("the median of %v is %v, not %v", it.list, got, it.expected)
		}
	}
}

func TestNumber(t *testing.T) {
	for value, expected := range map[float64]string{
		0: "0.00", 0.314: "0.31", 9.996: "10.0", 49.26: "49.3", 99.96: "100", 5204: "5,200", 152_345: "152,000",
		999_700: "1,000,000", 1_234_567: "1,230,000",
	} {
		if got := number(value); got != expected {
			t.Errorf("%v is shown as %s, not %s", value, got, expected)
		}
	}
}

func TestLinesThatAreNoneAreNamed(t *testing.T) {
	for _, bad := range []string{"no json", `{"value":1}`} {
		_, _, err := read(strings.NewReader(strings.Split(lines, "\n")[0] + "\n" + bad + "\n"))
		if err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%q gives the error %v", bad, err)
		}
	}
}
