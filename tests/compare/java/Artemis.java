import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.LongConsumer;
import java.util.stream.Stream;
import javax.jms.*;
import org.apache.activemq.artemis.jms.client.ActiveMQConnectionFactory;

/**
 * Drives Artemis over its core protocol by JMS, with the load of ../go/figures.go.
 *
 * <p>java Artemis SECONDS SERVER_PIDS URL[,URL_OF_THE_SECOND_BROKER] FIGURE… prints one line of JSON for each value. Objects
 * are pushed to the first broker and consumed at the last one.
 */
public class Artemis {
    static final int PAYLOAD_BYTES = 200, WINDOW = 4_096, BACKLOG = 50_000, ACK_EVERY = 100;
    static final int TOGETHER = 64; // A thread that waits for room is woken for so many at once, not for each.
    static final int LATENCY_RATE = 1_000, WARM_UP = 200;
    static final int MOVE_OBJECTS = 300_000, MOVE_WARM_UP = 120_000;
    static final double PATIENCE_SECONDS = 120;

    // Sends do not wait for their answers, nothing but WINDOW holds a producer up, and a consumer is sent 1 MiB ahead.
    static final String OPTIONS = "?confirmationWindowSize=4194304&producerWindowSize=-1&consumerWindowSize=1048576"
        + "&blockOnDurableSend=false&blockOnAcknowledge=false&cacheDestinations=true";

    static double seconds;
    static long[] servers;
    static String near, far;

    public static void main(String[] arguments) {
        try {
            seconds = Double.parseDouble(arguments[0]);
            servers = Stream.of(arguments[1].split(",")).mapToLong(Long::parseLong).toArray();
            String[] urls = arguments[2].split(",");
            near = urls[0];
            far = urls[urls.length - 1];
            List<String> figures = List.of(arguments).subList(3, arguments.length);
            bounded("the warm-up", Artemis::warmUp);
            for (String figure : figures) bounded(figure, () -> measure(figure));
            System.exit(0);
        } catch (Exception failed) {
            fail(failed);
        }
    }

    interface Work { void run() throws Exception; }

    /** Runs work; this clock is the bound of every wait in it. */
    static void bounded(String name, Work work) throws Exception {
        double limit = PATIENCE_SECONDS + 10 * seconds;
        Timer clock = new Timer(true);
        clock.schedule(new TimerTask() {
            public void run() { fail(new Exception(name + " has not ended after " + limit + " s")); }
        }, (long) (limit * 1000));
        work.run();
        clock.cancel();
    }

    static void fail(Exception failed) {
        failed.printStackTrace();
        System.err.println("Artemis: " + failed);
        Runtime.getRuntime().halt(1);
    }

    /** Both virtual machines compile what they run often; their rates rise for about half a minute of load. */
    static void warmUp() throws Exception {
        if (near.equals(far)) {
            endToEnd("warm-up", 25, false);
            drain("warm-up", pushForTime(new Pusher("warm-up"), 8, () -> { }), false);
        } else {
            drain("warm-up", pushMany("warm-up", MOVE_WARM_UP), false);
        }
    }

    static void measure(String figure) throws Exception {
        switch (figure) {
            case "push" -> push(figure);
            case "drain" -> drain(figure, pushForTime(new Pusher(figure), seconds, () -> { }), true);
            case "e2e" -> endToEnd(figure, seconds, true);
            case "move" -> drain(figure, pushMany(figure, MOVE_OBJECTS), true);
            case "latency", "move-latency" -> latency(figure);
            default -> throw new IllegalArgumentException("there is no figure " + figure);
        }
    }

    // ---- the figures; each has a queue of its name

    static void push(String figure) throws Exception {
        Pusher pusher = new Pusher(figure);
        Meter meter = new Meter();
        meter.rate(figure, pushForTime(pusher, seconds, () -> { }));
    }

    static void drain(String figure, long pushed, boolean counts) throws Exception {
        Meter meter = new Meter();
        new Consumer(figure, stamp -> { }).close(pushed);
        if (counts) meter.rate(figure, pushed);
    }

    static void endToEnd(String figure, double time, boolean counts) throws Exception {
        Semaphore room = new Semaphore(BACKLOG);
        AtomicLong delivered = new AtomicLong();
        Consumer consumer = new Consumer(figure, stamp -> {
            if (delivered.incrementAndGet() % TOGETHER == 0) room.release(TOGETHER);
        });
        Pusher pusher = new Pusher(figure);
        Meter meter = new Meter();
        long pushed = pushForTime(pusher, time, room::acquire);
        consumer.close(pushed);
        if (counts) meter.rate(figure, pushed);
    }

    static void latency(String figure) throws Exception {
        int objects = (int) (LATENCY_RATE * seconds), all = WARM_UP + objects;
        long[] waits = new long[all];
        AtomicLong seen = new AtomicLong();
        Consumer consumer = new Consumer(figure, stamp -> waits[(int) seen.getAndIncrement()] = System.nanoTime() - stamp);
        Pusher pusher = new Pusher(figure);
        pushAtRate(pusher, WARM_UP);
        consumer.await(WARM_UP);
        pushAtRate(pusher, objects);
        pusher.close();
        consumer.close(all);
        long[] sorted = Arrays.stream(waits, WARM_UP, all).sorted().toArray();
        for (int percent : new int[] {50, 99})
            emit(figure + ".p" + percent, sorted[Math.max(0, (objects * percent + 99) / 100 - 1)] / 1e6, "ms");
    }

    // ---- the load

    static long pushForTime(Pusher pusher, double time, Work before) throws Exception {
        long pushed = 0;
        for (long start = System.nanoTime(); System.nanoTime() - start < time * 1e9; pushed++) {
            before.run();
            pusher.push();
        }
        pusher.close();
        return pushed;
    }

    static long pushMany(String queue, int objects) throws Exception {
        Pusher pusher = new Pusher(queue);
        for (int pushed = 0; pushed < objects; pushed++) pusher.push();
        pusher.close();
        return objects;
    }

    static void pushAtRate(Pusher pusher, int objects) throws Exception {
        long start = System.nanoTime();
        for (long pushed = 0; pushed < objects; pushed++) {
            for (long early; (early = start + pushed * 1_000_000_000 / LATENCY_RATE - System.nanoTime()) > 0; )
                LockSupport.parkNanos(early);
            pusher.push();
        }
    }

    // ---- one connection that pushes, and one that consumes

    static Connection connect(String url) throws JMSException {
        Connection connection = new ActiveMQConnectionFactory(url + OPTIONS).createConnection();
        connection.setExceptionListener(Artemis::fail);
        connection.start();
        return connection;
    }

    /** Pushes durable objects; the completion of a send is the broker's confirmation. */
    static class Pusher implements CompletionListener {
        final Connection connection = connect(near);
        final Session session = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
        final MessageProducer producer;
        final Semaphore window = new Semaphore(WINDOW);
        final AtomicLong answered = new AtomicLong();
        long pushed;
        final ByteBuffer payload = ByteBuffer.allocate(PAYLOAD_BYTES);

        Pusher(String queue) throws JMSException {
            producer = session.createProducer(session.createQueue(queue));
            producer.setDeliveryMode(DeliveryMode.PERSISTENT);
            producer.setDisableMessageID(true);
            producer.setDisableMessageTimestamp(true);
        }

        void push() throws Exception {
            window.acquire();
            pushed++;
            BytesMessage object = session.createBytesMessage();
            object.writeBytes(payload.putLong(0, System.nanoTime()).array());
            producer.send(object, this);
        }

        public void onCompletion(Message object) {
            if (answered.incrementAndGet() % TOGETHER == 0) window.release(TOGETHER);
        }

        public void onException(Message object, Exception refused) { fail(refused); }

        /** Waits until everything is confirmed. */
        void close() throws Exception {
            while (answered.get() < pushed) LockSupport.parkNanos(1_000_000);
            connection.close();
        }
    }

    /** Hands the stamp of each object to handle, and settles 100 at once, or what it has when no more come. */
    static class Consumer {
        final AtomicLong settled = new AtomicLong();
        final Connection connection = connect(far);
        final Session session = connection.createSession(false, Session.CLIENT_ACKNOWLEDGE);
        final MessageConsumer consumer;

        Consumer(String queue, LongConsumer handle) throws JMSException {
            consumer = session.createConsumer(session.createQueue(queue));
            Thread thread = new Thread(() -> run(handle));
            thread.setDaemon(true);
            thread.start();
        }

        void run(LongConsumer handle) {
            try {
                ByteBuffer payload = ByteBuffer.allocate(PAYLOAD_BYTES);
                Message last = null;
                int unsettled = 0;
                while (true) {
                    // What is left is settled when nothing has come for a millisecond: to acknowledge the last one
                    // acknowledges all before it.
                    Message object = unsettled == 0 ? consumer.receive() : consumer.receive(1);
                    if (object != null) {
                        ((BytesMessage) object).readBytes(payload.array());
                        handle.accept(payload.getLong(0));
                        last = object;
                        unsettled++;
                    } else if (unsettled == 0) {
                        return; // It was closed.
                    }
                    if (object == null || unsettled == ACK_EVERY) {
                        last.acknowledge();
                        settled.addAndGet(unsettled);
                        unsettled = 0;
                    }
                }
            } catch (JMSException failed) {
                fail(failed);
            }
        }

        void await(long objects) {
            while (settled.get() < objects) LockSupport.parkNanos(1_000_000);
        }

        /** Waits until that many are settled. The broker answers the end of a session after the settles that it was sent. */
        void close(long objects) throws JMSException {
            await(objects);
            session.close();
            connection.close();
        }
    }

    // ---- the meter

    /** Measures time, and the processor time of the brokers and of this process. */
    static class Meter {
        final double server = processorTime(servers), client = processorTime(ProcessHandle.current().pid());
        final long start = System.nanoTime();

        Meter() throws IOException { }

        void rate(String figure, long objects) throws IOException {
            double millions = objects / 1e6, time = (System.nanoTime() - start) / 1e9;
            emit(figure, objects / time, "objects/s");
            emit(figure + ".cpu_node", (processorTime(servers) - server) / millions, "CPU s/M");
            emit(figure + ".cpu_client", (processorTime(ProcessHandle.current().pid()) - client) / millions, "CPU s/M");
        }
    }

    /** User and system time of processes and of their children that have ended; a broker has none that live. */
    static double processorTime(long... pids) throws IOException {
        double ticks = 0;
        for (long pid : pids) {
            String stat = Files.readString(Path.of("/proc/" + pid + "/stat"));
            String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
            for (int field = 14; field <= 17; field++) ticks += Double.parseDouble(fields[field - 3]);
        }
        return ticks / 100;
    }

    static void emit(String figure, double value, String unit) {
        System.out.printf(Locale.ROOT, "{\"figure\":\"%s\",\"value\":%.6f,\"unit\":\"%s\"}%n", figure, value, unit);
    }
}
