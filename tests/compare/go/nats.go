package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// natsOptions is in what the systems of NATS differ, beside their servers.
type natsOptions struct {
	fastIngest  bool // pushes by fast ingest: an answer for many objects
	keepsSource bool // the first of two servers keeps what the second one has copied
}

// natsSystem is JetStream on one server, or on two whose second one is a leaf node of the first.
type natsSystem struct {
	options   natsOptions
	urls      []string
	near, far jetstream.JetStream // connections for control: no object goes through them
}

func openNATS(urls []string, options natsOptions) (System, error) {
	system := &natsSystem{options: options, urls: urls}
	var err error
	if _, system.near, err = system.connect(urls[0]); err != nil {
		return nil, err
	}
	_, system.far, err = system.connect(system.farURL())
	return system, err
}

// farURL is where objects are consumed.
func (s *natsSystem) farURL() string { return s.urls[len(s.urls)-1] }

// stream is the one that consumers of a queue see.
func (s *natsSystem) stream(queue string) string {
	if len(s.urls) > 1 {
		return queue + "-moved"
	}
	return queue
}

func (s *natsSystem) connect(url string, options ...jetstream.JetStreamOpt) (*nats.Conn, jetstream.JetStream, error) {
	connection, err := nats.Connect(url, nats.NoReconnect(), nats.ClosedHandler(func(closed *nats.Conn) {
		if lost := closed.LastError(); lost != nil { // There is none when this side closes the connection.
			check(fmt.Errorf("the connection was lost: %w", lost))
		}
	}))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(connection, options...)
	return connection, js, err
}

// Queue makes a stream that deletes what is acknowledged.
func (s *natsSystem) Queue(name string) error {
	retention := jetstream.WorkQueuePolicy
	if s.options.keepsSource {
		retention = jetstream.LimitsPolicy
	}
	_, err := s.near.CreateStream(context.Background(), jetstream.StreamConfig{
		Name: name, Subjects: []string{name}, Storage: jetstream.FileStorage, Retention: retention,
		AllowBatchPublish: s.options.fastIngest,
	})
	return err
}

// Link makes a stream of the second server that takes over, or copies, the one of the first.
func (s *natsSystem) Link(queue string) error {
	_, err := s.far.CreateStream(context.Background(), jetstream.StreamConfig{
		Name: s.stream(queue), Storage: jetstream.FileStorage, Retention: jetstream.WorkQueuePolicy,
		Sources: []*jetstream.StreamSource{{Name: queue, External: &jetstream.ExternalStream{APIPrefix: "$JS.near.API"}}},
	})
	return err
}

// Moved asks the second server until its stream has the objects.
func (s *natsSystem) Moved(queue string, objects int64) error {
	return s.waitForStream(queue, func(stored uint64) bool { return stored >= uint64(objects) })
}

// waitForStream asks how many objects are stored where they are consumed. It asks rarely: each answer costs the server.
func (s *natsSystem) waitForStream(queue string, enough func(stored uint64) bool) error {
	for {
		stream, err := s.far.Stream(context.Background(), s.stream(queue))
		if err != nil {
			return err
		}
		if enough(stream.CachedInfo().State.Msgs) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Drop deletes the stream, and the one that it was moved to.
func (s *natsSystem) Drop(queue string) error {
	if stream := s.stream(queue); stream != queue {
		if err := s.far.DeleteStream(context.Background(), stream); err != nil {
			return err
		}
	}
	return s.near.DeleteStream(context.Background(), queue)
}

// Pusher publishes asynchronously, or by fast ingest.
func (s *natsSystem) Pusher(queue string) (Pusher, error) {
	if s.options.fastIngest {
		return s.fastPusher(queue)
	}
	pusher := &natsPusher{queue: queue, unanswered: make(chan struct{}, window)}
	var err error
	pusher.connection, pusher.js, err = s.connect(s.urls[0],
		jetstream.WithPublishAsyncMaxPending(2*window), // The window is the channel's.
		jetstream.WithPublishAsyncAckHandler(func(jetstream.JetStream, *nats.Msg, *jetstream.PubAck) { <-pusher.unanswered }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
			check(fmt.Errorf("a push was refused: %w", err))
		}))
	return pusher, err
}

type natsPusher struct {
	queue      string
	connection *nats.Conn
	js         jetstream.JetStream
	unanswered chan struct{}
}

// Push publishes to the stream's subject.
func (p *natsPusher) Push(payload []byte) error {
	p.unanswered <- struct{}{}
	_, err := p.js.PublishAsync(p.queue, payload)
	return err
}

// Finish fills the window: there is room for all of it when nothing is without an answer.
func (p *natsPusher) Finish() error {
	for range window {
		p.unanswered <- struct{}{}
	}
	p.connection.Close()
	return nil
}

// fastPusher has at most 8 answers for 500 objects each on their way: 4,000 of the 4,096 objects allowed.
func (s *natsSystem) fastPusher(queue string) (Pusher, error) {
	connection, js, err := s.connect(s.urls[0])
	if err != nil {
		return nil, err
	}
	flow := jetstreamext.FastPublishFlowControl{Flow: 500, MaxOutstandingAcks: 8, AckTimeout: 20 * time.Second}
	publisher, err := jetstreamext.NewFastPublisher(js, flow)
	return &natsFastPusher{queue: queue, connection: connection, publisher: publisher}, err
}

type natsFastPusher struct {
	queue      string
	connection *nats.Conn
	publisher  jetstreamext.FastPublisher
	pushed     uint64
}

// Push adds an object to the batch, and waits if too many have no answer.
func (p *natsFastPusher) Push(payload []byte) error {
	p.pushed++
	_, err := p.publisher.Add(p.queue, payload)
	return err
}

// Finish ends the batch, whose answer says how many objects it has.
func (p *natsFastPusher) Finish() error {
	limit, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := p.publisher.Close(limit)
	if err != nil {
		return err
	}
	p.connection.Close()
	if answer.BatchSize != p.pushed {
		return fmt.Errorf("%d of %d pushes were confirmed", answer.BatchSize, p.pushed)
	}
	return nil
}

// Consumer pulls with a window of 5,000 objects and acknowledges each of them.
func (s *natsSystem) Consumer(queue string, handle func(payload []byte)) (Consumer, error) {
	connection, js, err := s.connect(s.farURL())
	if err != nil {
		return nil, err
	}
	durable, err := js.CreateConsumer(context.Background(), s.stream(queue), jetstream.ConsumerConfig{
		Durable: "consumer", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 20_000, AckWait: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	consumer := &natsConsumer{system: s, queue: queue, connection: connection}
	consumer.pulling, err = durable.Consume(func(object jetstream.Msg) {
		handle(object.Data())
		check(object.Ack())
		consumer.settled.Add(1)
	}, jetstream.PullMaxMessages(5_000), jetstream.PullThresholdMessages(2_500),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			// The library goes on after these; if it does not, the figure's clock ends.
			fmt.Fprintln(os.Stderr, "compare: the consumer:", err)
		}))
	return consumer, err
}

type natsConsumer struct {
	system     *natsSystem
	queue      string
	connection *nats.Conn
	pulling    jetstream.ConsumeContext
	settled    atomic.Int64
}

// Settled waits until the stream is empty: it deletes an object when it is acknowledged.
func (c *natsConsumer) Settled(objects int64) error {
	waitFor(&c.settled, objects)
	return c.system.waitForStream(c.queue, func(stored uint64) bool { return stored == 0 })
}

// Close stops pulling.
func (c *natsConsumer) Close() {
	c.pulling.Stop()
	c.connection.Close()
}
