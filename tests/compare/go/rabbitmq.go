package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rabbitSystem is RabbitMQ with quorum queues.
type rabbitSystem struct {
	url     string
	control *amqp.Channel
}

func openRabbitMQ(url string) (System, error) {
	_, control, err := connectRabbitMQ(url)
	return &rabbitSystem{url, control}, err
}

func connectRabbitMQ(url string) (*amqp.Connection, *amqp.Channel, error) {
	connection, err := amqp.Dial(url)
	if err != nil {
		return nil, nil, err
	}
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		if lost := <-closed; lost != nil { // It is nil when this side closes the connection.
			check(fmt.Errorf("the connection was lost: %w", lost))
		}
	}()
	channel, err := connection.Channel()
	return connection, channel, err
}

// quorum is the type of every queue: the one that is replicated and synced.
var quorum = amqp.Table{"x-queue-type": "quorum"}

// Queue declares a durable quorum queue.
func (s *rabbitSystem) Queue(name string) error {
	_, err := s.control.QueueDeclare(name, true, false, false, false, quorum)
	return err
}

// Drop deletes the queue.
func (s *rabbitSystem) Drop(queue string) error {
	_, err := s.control.QueueDelete(queue, false, false, false)
	return err
}

// Pusher publishes persistent messages with publisher confirms.
func (s *rabbitSystem) Pusher(queue string) (Pusher, error) {
	connection, channel, err := connectRabbitMQ(s.url)
	if err != nil {
		return nil, err
	}
	if err := channel.Confirm(false); err != nil {
		return nil, err
	}
	pusher := &rabbitPusher{queue, connection, channel, make(chan struct{}, window)}
	answers := channel.NotifyPublish(make(chan amqp.Confirmation, window))
	go func() {
		for answer := range answers {
			if !answer.Ack {
				check(errors.New("a push was refused"))
			}
			<-pusher.unanswered
		}
	}()
	return pusher, nil
}

type rabbitPusher struct {
	queue      string
	connection *amqp.Connection
	channel    *amqp.Channel
	unanswered chan struct{}
}

// Push publishes by the exchange that goes straight to a queue.
func (p *rabbitPusher) Push(payload []byte) error {
	p.unanswered <- struct{}{}
	object := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: payload}
	return p.channel.PublishWithContext(context.Background(), "", p.queue, false, false, object)
}

// Finish fills the window: there is room for all of it when nothing is without an answer.
func (p *rabbitPusher) Finish() error {
	for range window {
		p.unanswered <- struct{}{}
	}
	return p.connection.Close()
}

const (
	prefetch = 1_000 // objects delivered and not acknowledged
	ackEvery = 100   // objects that one acknowledgement settles, while there are more
)

// Consumer acknowledges 100 objects at once while they come without a pause, and at once what it has when none waits.
func (s *rabbitSystem) Consumer(queue string, handle func(payload []byte)) (Consumer, error) {
	connection, channel, err := connectRabbitMQ(s.url)
	if err != nil {
		return nil, err
	}
	if err := channel.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	consumer := &rabbitConsumer{queue: queue, connection: connection, channel: channel}
	go consumer.run(deliveries, handle)
	return consumer, nil
}

type rabbitConsumer struct {
	queue      string
	connection *amqp.Connection
	channel    *amqp.Channel
	settled    atomic.Int64
}

// run ends when the connection is closed.
func (c *rabbitConsumer) run(deliveries <-chan amqp.Delivery, handle func(payload []byte)) {
	last, unsettled := uint64(0), int64(0)
	settle := func() {
		if unsettled > 0 {
			check(c.channel.Ack(last, true))
			c.settled.Add(unsettled)
			unsettled = 0
		}
	}
	for {
		var object amqp.Delivery
		var open bool
		select {
		case object, open = <-deliveries:
		default:
			settle()
			object, open = <-deliveries
		}
		if !open {
			return
		}
		handle(object.Body)
		last = object.DeliveryTag
		if unsettled++; unsettled == ackEvery {
			settle()
		}
	}
}

// Settled asks a question on the channel after the last acknowledgement: the server answers in order.
func (c *rabbitConsumer) Settled(objects int64) error {
	waitFor(&c.settled, objects)
	_, err := c.channel.QueueDeclarePassive(c.queue, true, false, false, false, quorum)
	return err
}

// Close closes the connection, which ends the deliveries.
func (c *rabbitConsumer) Close() { _ = c.connection.Close() }
