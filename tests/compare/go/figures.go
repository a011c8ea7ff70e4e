package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// The load is the same for every system.
const (
	payloadBytes  = 200
	window        = 4096   // pushes without an answer
	backlog       = 50_000 // pushed and not delivered, in e2e
	backlogOfSlow = 5_000  // the same for a system that needs ten seconds for 50,000
	latencyRate   = 1_000  // objects a second
	warmUp        = 200    // objects before the first whose latency counts
	moveObjects   = 300_000
	patience      = 2 * time.Minute // for a figure, beside the time that it pushes
)

// System is a message system as the figures need it.
type System interface {
	// Queue makes an empty queue whose objects survive the server.
	Queue(name string) error
	// Pusher opens a connection that pushes to a queue.
	Pusher(queue string) (Pusher, error)
	// Consumer opens a connection that hands each object of a queue to handle, one after the other, and settles it then.
	Consumer(queue string, handle func(payload []byte)) (Consumer, error)
	// Drop deletes a queue.
	Drop(queue string) error
}

// Pusher is a connection that pushes.
type Pusher interface {
	// Push sends an object, and waits while window objects have no answer.
	Push(payload []byte) error
	// Finish waits until every object is confirmed, and closes the connection. It fails if one was refused.
	Finish() error
}

// Consumer is a connection that receives and settles.
type Consumer interface {
	// Settled waits until that many objects were settled, and the server knows it.
	Settled(objects int64) error
	// Close closes the connection.
	Close()
}

// Line is a system of two servers: Pusher is of the first one, Consumer of the second.
type Line interface {
	System
	// Link makes the second server take over what the queue has and gets at the first one.
	Link(queue string) error
	// Moved waits until the second server has stored that many objects.
	Moved(queue string, objects int64) error
}

// bench measures figures of one system.
type bench struct {
	system  System
	servers []int
	time    time.Duration
	backlog int
}

// measure measures a figure in a queue of its own. This clock is the bound of every wait that has none itself.
func (b *bench) measure(figure string) error {
	limit := patience + 10*b.time
	clock := time.AfterFunc(limit, func() { check(fmt.Errorf("%s has not ended after %v", figure, limit)) })
	defer clock.Stop()
	figures := map[string]func(queue string) error{
		"push":         b.push,
		"drain":        b.drain,
		"e2e":          b.endToEnd,
		"latency":      func(queue string) error { return b.latency("latency", queue) },
		"move":         b.move,
		"move-latency": b.moveLatency,
	}
	run, known := figures[figure]
	if !known {
		return fmt.Errorf("there is no figure %q", figure)
	}
	if err := b.system.Queue(figure); err != nil {
		return fmt.Errorf("%s: the queue: %w", figure, err)
	}
	if err := run(figure); err != nil {
		return fmt.Errorf("%s: %w", figure, err)
	}
	return b.system.Drop(figure)
}

// push: from the first push to the answer to the last one; nobody consumes.
func (b *bench) push(queue string) error {
	pusher, err := b.system.Pusher(queue)
	if err != nil {
		return err
	}
	meter := startMeter(b.servers)
	pushed, err := b.pushForTime(pusher, func() {})
	if err != nil {
		return err
	}
	meter.rate("push", pushed)
	return nil
}

// drain: from the consumer's start to the settling of the last object of a backlog.
func (b *bench) drain(queue string) error {
	pusher, err := b.system.Pusher(queue)
	if err != nil {
		return err
	}
	pushed, err := b.pushForTime(pusher, func() {})
	if err != nil {
		return err
	}
	meter := startMeter(b.servers)
	consumer, err := b.system.Consumer(queue, func([]byte) {})
	if err != nil {
		return err
	}
	defer consumer.Close()
	if err := consumer.Settled(pushed); err != nil {
		return err
	}
	meter.rate("drain", pushed)
	return nil
}

// endToEnd: from the first push to the settling of the last object, with a bounded backlog in between.
func (b *bench) endToEnd(queue string) error {
	room := make(chan struct{}, b.backlog)
	consumer, pusher, err := b.connect(queue, func([]byte) { <-room })
	if err != nil {
		return err
	}
	defer consumer.Close()
	meter := startMeter(b.servers)
	pushed, err := b.pushForTime(pusher, func() { room <- struct{}{} })
	if err != nil {
		return err
	}
	if err := consumer.Settled(pushed); err != nil {
		return err
	}
	meter.rate("e2e", pushed)
	return nil
}

// connect opens the connection that consumes, then the one that pushes.
func (b *bench) connect(queue string, handle func(payload []byte)) (Consumer, Pusher, error) {
	consumer, err := b.system.Consumer(queue, handle)
	if err != nil {
		return nil, nil, err
	}
	pusher, err := b.system.Pusher(queue)
	if err != nil {
		consumer.Close()
		return nil, nil, err
	}
	return consumer, pusher, nil
}

// pushForTime pushes until the time is over, calls before ahead of each push, and waits for all answers.
func (b *bench) pushForTime(pusher Pusher, before func()) (int64, error) {
	payload := make([]byte, payloadBytes)
	pushed := int64(0)
	for start := time.Now(); time.Since(start) < b.time; pushed++ {
		before()
		if err := pusher.Push(payload); err != nil {
			return 0, err
		}
	}
	return pushed, pusher.Finish()
}

// latency: from just before a push to the consumer's handler, at a rate that does not wait for the system.
func (b *bench) latency(figure, queue string) error {
	origin := time.Now()
	var waits []time.Duration // The adapter calls the handler before it counts an object as settled, so no lock is needed.
	consumer, pusher, err := b.connect(queue, func(payload []byte) {
		waits = append(waits, time.Since(origin)-time.Duration(binary.LittleEndian.Uint64(payload)))
	})
	if err != nil {
		return err
	}
	defer consumer.Close()
	pushAtRate := func(objects int) error {
		for start, pushed := time.Now(), 0; pushed < objects; pushed++ {
			time.Sleep(time.Until(start.Add(time.Duration(pushed) * time.Second / latencyRate)))
			payload := make([]byte, payloadBytes)
			binary.LittleEndian.PutUint64(payload, uint64(time.Since(origin)))
			if err := pusher.Push(payload); err != nil {
				return err
			}
		}
		return nil
	}
	if err := pushAtRate(warmUp); err != nil {
		return err
	}
	if err := consumer.Settled(warmUp); err != nil {
		return err
	}
	objects := int(latencyRate * b.time / time.Second)
	if err := pushAtRate(objects); err != nil {
		return err
	}
	if err := pusher.Finish(); err != nil {
		return err
	}
	if err := consumer.Settled(int64(warmUp + objects)); err != nil {
		return err
	}
	counted := slices.Sorted(slices.Values(waits[warmUp:]))
	emit(figure+".p50", milliseconds(percentile(counted, 50)), "ms")
	emit(figure+".p99", milliseconds(percentile(counted, 99)), "ms")
	return nil
}

// move: from the link to a full queue of the first server to the last object at the second one.
func (b *bench) move(queue string) error {
	line, two := b.system.(Line)
	if !two {
		return fmt.Errorf("it needs two servers")
	}
	pusher, err := line.Pusher(queue)
	if err != nil {
		return err
	}
	payload := make([]byte, payloadBytes)
	for range moveObjects {
		if err := pusher.Push(payload); err != nil {
			return err
		}
	}
	if err := pusher.Finish(); err != nil {
		return err
	}
	meter := startMeter(b.servers)
	if err := line.Link(queue); err != nil {
		return err
	}
	if err := line.Moved(queue, moveObjects); err != nil {
		return err
	}
	meter.rate("move", moveObjects)
	return nil
}

// moveLatency: as latency, pushed at the first server and consumed at the second.
func (b *bench) moveLatency(queue string) error {
	line, two := b.system.(Line)
	if !two {
		return fmt.Errorf("it needs two servers")
	}
	if err := line.Link(queue); err != nil {
		return err
	}
	return b.latency("move-latency", queue)
}

// percentile is the nearest rank in sorted values.
func percentile(sorted []time.Duration, percent int) time.Duration {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// waitFor looks at a counter until it has reached a value. A look a millisecond costs nothing that can be measured, and
// a figure takes seconds.
func waitFor(counter *atomic.Int64, value int64) {
	for counter.Load() < value {
		time.Sleep(time.Millisecond)
	}
}

// emit prints one value.
func emit(figure string, value float64, unit string) {
	line := struct {
		Figure string  `json:"figure"`
		Value  float64 `json:"value"`
		Unit   string  `json:"unit"`
	}{figure, math.Round(value*1e6) / 1e6, unit}
	check(json.NewEncoder(os.Stdout).Encode(line))
}
