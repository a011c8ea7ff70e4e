//! Seeded random runs: each draws its nodes, links, limits, clients and faults, does everything at
//! once for a while, then heals and has to come to an end.

use dpc_core::input::{Operator, Which};
use dpc_core::names::TypeName;
use dpc_core::recording::TapeBounds;
use dpc_core::time::Span;
use dpc_core::{Answer, Limits};
use rand_core::Rng;
use rand_pcg::Pcg64Mcg;

use crate::contract::Fault;
use crate::coverage::Coverage;
use crate::recorder::Recording;
use crate::world::{Mode, Plan, Power, Wish, World};

/// How one run ended.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The first broken promise.
    pub broken: Option<String>,
    /// What occurred.
    pub coverage: Coverage,
    /// Events that happened.
    pub steps: u64,
    /// Simulated time.
    pub simulated: Span,
    /// The story, if it was asked for.
    pub trace: String,
}

/// The types that objects have.
const TYPES: [&str; 5] = ["img", "doc.text", "doc.pdf", "doc.pdf.signed", "sound"];

/// What subscriptions ask for.
const PATTERNS: [&str; 7] = ["img", "doc.text", "doc.pdf", "doc.*", "doc.pdf.*", "sound", "*"];

/// The processors.
const PROCESSORS: [&str; 3] = ["default", "blue", "red"];

/// No run needs more events than this.
const STEPS_MAX: u64 = 400_000;

/// How likely each thing is in one run, drawn for it.
#[derive(Debug)]
struct Mood {
    push: u64,
    subscribe: u64,
    leave: u64,
    client: u64,
    operate: u64,
    kill: u64,
    network: u64,
    disk: u64,
    pause: u64,
    /// Longest time between two actions, in microseconds.
    pace: u64,
}

struct Swarm {
    world: World,
    rng: Pcg64Mcg,
    mood: Mood,
    /// Pushes to say again: the same, or with other content.
    pushed: Vec<(usize, dpc_core::object::Push)>,
    /// Subscribers for everything that are there all the time: for them nothing new may appear at
    /// the end, so what is stuck has to ask for a refresh.
    closers: Vec<usize>,
}

/// Runs one seed.
pub fn run(seed: u64, trace: bool) -> Report {
    Swarm::new(seed, trace).run()
}

/// Runs one seed and records every core in it, cut like this.
pub fn record(seed: u64, bounds: TapeBounds) -> (Report, Vec<Recording>) {
    let mut swarm = Swarm::new(seed, false);
    swarm.world.record(bounds);
    let report = swarm.run();
    (report, swarm.world.take_recordings())
}

impl Swarm {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Pcg64Mcg::new(u128::from(seed ^ 0x7377_6172_6d00) << 1 | 1);
        for _ in 0..4 {
            rng.next_u64();
        }
        let plan = Plan {
            seed,
            limits: draw_limits(&mut rng),
            latency: Span(200),
            latency_spread: Span(one_of(&mut rng, &[1, 2_000, 50_000, 300_000])),
            notice: Span(one_of(&mut rng, &[1, 100_000, 3_000_000])),
            think: Span(1_000),
            think_spread: Span(one_of(&mut rng, &[1, 50_000, 3_000_000])),
            lose_index_percent: one_of(&mut rng, &[0, 50, 100]),
            trace,
        };
        let mood = Mood {
            push: 30,
            subscribe: one_of(&mut rng, &[2, 6]),
            leave: one_of(&mut rng, &[1, 5]),
            client: one_of(&mut rng, &[2, 10]),
            operate: one_of(&mut rng, &[0, 3]),
            kill: one_of(&mut rng, &[0, 1, 4]),
            network: one_of(&mut rng, &[0, 2, 6]),
            disk: one_of(&mut rng, &[0, 0, 1, 2]),
            pause: one_of(&mut rng, &[0, 0, 1]),
            pace: one_of(&mut rng, &[5_000, 50_000, 300_000]),
        };
        let mut swarm =
            Self { world: World::new(plan), rng, mood, pushed: Vec::new(), closers: Vec::new() };
        swarm.world.check_every = if trace { 1 } else { 7 };
        swarm.build();
        swarm
    }

    fn run(&mut self) -> Report {
        let broken = self.live().err();
        let world = &mut self.world;
        Report {
            seed: world.plan.seed,
            broken,
            coverage: world.coverage.clone(),
            steps: world.steps,
            simulated: world.now() - dpc_core::Mono(0),
            trace: world.trace.take(),
        }
    }

    fn build(&mut self) {
        let n = 1 + self.draw(6);
        for _ in 0..n {
            self.world.add_node();
        }
        let shape = self.draw(4);
        for i in 1..n {
            let to = match shape {
                0 | 1 => i - 1,
                2 => 0,
                _ => self.draw(i),
            };
            self.link(to, i);
        }
        if shape == 1 && n > 2 {
            self.link(n - 1, 0);
        }
        if n > 1 {
            for _ in 0..self.draw(3) {
                let (a, b) = (self.draw(n), self.draw(n));
                if a != b {
                    self.link(a, b);
                }
            }
        }
    }

    fn link(&mut self, a: u64, b: u64) {
        self.world.link(a as usize, b as usize);
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below.max(1)
    }

    fn any_node(&mut self) -> usize {
        let n = self.world.nodes().len() as u64;
        self.draw(n) as usize
    }

    fn any<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.draw(of.len() as u64) as usize]
    }

    /// Both phases, and the checks at the end.
    fn live(&mut self) -> Result<(), String> {
        if self.draw(3) == 0 {
            self.subscribe_closers();
        }
        let actions = 40 + self.draw(160);
        for _ in 0..actions {
            let span = Span(1 + self.draw(self.mood.pace));
            self.run_for(span)?;
            self.act();
            self.checked()?;
        }
        self.heal()?;
        self.converge()?;
        self.check_end()
    }

    fn checked(&self) -> Result<(), String> {
        self.world.broken().map_or(Ok(()), |what| Err(what.to_owned()))
    }

    fn run_for(&mut self, span: Span) -> Result<(), String> {
        let until = self.world.now() + span;
        while self.world.step(until) {
            self.checked()?;
            if self.world.steps > STEPS_MAX {
                return Err(format!("P11: no end after {STEPS_MAX} events, {}", self.world.now()));
            }
        }
        self.world.run_for(until - self.world.now());
        Ok(())
    }

    fn act(&mut self) {
        let m = &self.mood;
        let weights =
            [m.push, m.subscribe, m.leave, m.client, m.operate, m.kill, m.network, m.disk, m.pause];
        let mut at = self.draw(weights.iter().sum());
        let mut what = 0;
        while at >= weights[what] {
            at -= weights[what];
            what += 1;
        }
        match what {
            0 => self.push(),
            1 => self.subscribe(),
            2 => self.leave(),
            3 => self.client(),
            4 => self.operate(),
            5 => self.kill(),
            6 => self.network(),
            7 => self.disk(),
            _ => self.pause(),
        }
    }

    fn push(&mut self) {
        for _ in 0..1 + self.draw(4) {
            let node = self.any_node();
            let again = self.draw(12);
            if again < 2 && !self.pushed.is_empty() {
                let i = self.draw(self.pushed.len() as u64) as usize;
                let (before, mut push) = self.pushed[i].clone();
                let elsewhere = self.draw(2) == 0;
                if again == 1 {
                    push.entity.payload = "something else".into();
                }
                self.world.coverage.add_if("id pushed at two nodes", elsewhere && node != before);
                self.world.coverage.add("id pushed again");
                self.world.push(if elsewhere { node } else { before }, push, 0);
                continue;
            }
            let (ty, id) = (self.any(&TYPES), self.world.new_id());
            let size = one_of(&mut self.rng, &[1, 1, 10, 300, 3_000]);
            let text = "x".repeat(size as usize);
            let delay = (self.draw(12) == 0).then(|| Span::millis(1 + self.draw(90_000)));
            let expires = (self.draw(15) == 0)
                .then(|| Span(1_000 + self.draw(40_000_000) + delay.map_or(0, |d: Span| d.0)));
            let push = World::timed_push(id, ty, &text, delay, expires);
            self.pushed.push((node, push.clone()));
            let retries = self.draw(4) as u32;
            self.world.push(node, push, retries);
        }
    }

    fn subscribe(&mut self) {
        let types: Vec<TypeName> =
            TYPES.iter().map(|t| TypeName::from_type_url(t).expect("a valid type")).collect();
        let mode = match self.draw(4) {
            0 => Mode::Finalise,
            1 => Mode::Hold,
            _ => Mode::Any(types),
        };
        let wish = Wish {
            node: self.any_node(),
            pattern: self.any(&PATTERNS).to_owned(),
            processor: self.any(&PROCESSORS).to_owned(),
            credit: one_of(&mut self.rng, &[1, 2, 5, 100]) as u32,
            mode,
            lease: (self.draw(2) == 0).then(|| Span::millis(1_000 + self.draw(4_000))),
        };
        self.world.subscribe(wish);
    }

    fn any_client(&mut self) -> Option<usize> {
        let n = self.world.clients().len() as u64;
        let client = (n > 0).then(|| self.draw(n) as usize)?;
        (!self.closers.contains(&client)).then_some(client)
    }

    fn leave(&mut self) {
        let Some(client) = self.any_client() else { return };
        match self.draw(3) {
            0 => self.world.unsubscribe(client),
            1 => self.world.leave(client),
            _ => self.world.reconnect(client),
        }
    }

    fn client(&mut self) {
        if self.draw(4) == 0 {
            let (node, pattern) = (self.any_node(), self.any(&PATTERNS));
            let processor = self.any(&PROCESSORS);
            let mode = if self.draw(2) == 0 { Mode::Finalise } else { Mode::Hold };
            let count = 1 + self.draw(4) as u32;
            return self.world.take(node, pattern, processor, count, mode);
        }
        let Some(client) = self.any_client() else { return };
        match self.draw(5) {
            0 => {
                let credit = one_of(&mut self.rng, &[1, 3, 50]) as u32;
                self.world.set_credit(client, credit);
            }
            1 => self.settle_again(client),
            2 => {
                self.world.subscribe_again(client);
            }
            _ => self.transact(client),
        }
    }

    fn settle_again(&mut self, client: usize) {
        let Some(lease) = self.world.hand(client).first().copied() else { return };
        let types = [TypeName::from_type_url("sound").expect("a valid type")];
        let first = [Mode::Finalise, Mode::Release, Mode::Emit(types[0].clone())];
        let first = first[self.draw(3) as usize].clone();
        let same = self.draw(2) == 0;
        let second = if same { None } else { Some(Mode::Reject) };
        self.world.settle_twice(client, lease, first, second);
    }

    fn transact(&mut self, client: usize) {
        let hand = self.world.hand(client);
        let count = 1 + self.draw(3) as usize;
        let modes: Vec<Mode> = (0..count)
            .map(|_| match self.draw(4) {
                0 => Mode::Release,
                1 => Mode::Emit(TypeName::from_type_url("img").expect("a valid type")),
                2 => Mode::Handle,
                _ => Mode::Finalise,
            })
            .collect();
        let leases: Vec<u64> = hand.into_iter().take(count).collect();
        let push = (self.draw(2) == 0).then_some("doc.text");
        self.world.transact(client, &leases, &modes, push);
    }

    fn operate(&mut self) {
        let node = self.any_node();
        let order = match self.draw(8) {
            0 => Operator::Redrive(Which::All),
            1 => Operator::Drain,
            2 | 3 => Operator::Resume,
            4 => Operator::List { pattern: None, state: None, since: None, limit: 20 },
            5 => match self.pushed.last() {
                Some((_, push)) => Operator::Discard(push.id.expect("the swarm chooses ids")),
                None => Operator::Nodes,
            },
            6 if !self.pushed.is_empty() => {
                let i = self.draw(self.pushed.len() as u64) as usize;
                Operator::Inspect(self.pushed[i].1.id.expect("the swarm chooses ids"))
            }
            _ => Operator::Subscriptions,
        };
        self.world.operate(node, order);
    }

    fn kill(&mut self) {
        let node = self.any_node();
        if !self.world.nodes()[node].is_up() {
            return self.world.restart(node);
        }
        let power = if self.draw(2) == 0 { Power::Cut } else { Power::Stays };
        self.world.kill(node, power);
        if self.draw(2) == 0 {
            self.world.restart(node);
        }
    }

    fn network(&mut self) {
        let n = self.world.wires().len() as u64;
        if n == 0 {
            return;
        }
        let wire = self.draw(n) as usize;
        match self.draw(6) {
            0 => self.world.cut(wire),
            1 | 2 => self.world.heal(wire),
            3 => self.world.reset(wire),
            4 => self.world.hold(wire),
            _ => self.world.let_go(wire),
        }
    }

    fn disk(&mut self) {
        let node = self.any_node();
        let until = self.world.now() + Span::millis(self.draw(3_000));
        let disk = self.world.nodes()[node].disk.clone();
        match self.draw(6) {
            0 => disk.fail_next(Fault::SyncFails),
            1 => disk.fail_next(Fault::UnknownNever),
            2 => disk.fail_next(Fault::UnknownLater),
            3 => self.world.tell_disk(node, true),
            4 => self.world.tell_disk(node, false),
            _ => disk.stall(until),
        }
    }

    fn pause(&mut self) {
        let node = self.any_node();
        if self.world.nodes()[node].is_paused() {
            self.world.resume_process(node);
        } else {
            self.world.pause(node);
        }
    }

    /// The end of all faults: everything runs and can reach everything it is linked with.
    fn heal(&mut self) -> Result<(), String> {
        self.world.say("everything heals");
        for node in 0..self.world.nodes().len() {
            self.world.nodes()[node].disk.forget_faults();
            if self.world.nodes()[node].is_paused() {
                self.world.resume_process(node);
            }
        }
        for wire in 0..self.world.wires().len() {
            self.world.let_go(wire);
            self.world.heal(wire);
        }
        for client in 0..self.world.clients().len() {
            if !self.closers.contains(&client) {
                self.world.leave(client);
            }
        }
        self.run_for(Span::secs(4))?;
        for node in 0..self.world.nodes().len() {
            self.world.restart(node);
            self.world.tell_disk(node, false);
            self.world.operate(node, Operator::Resume);
        }
        self.run_for(Span::secs(5))
    }

    /// One subscriber for everything somewhere, or everywhere if the nodes may be too far apart.
    fn subscribe_closers(&mut self) {
        let nodes = self.world.nodes().len();
        let one = self.any_node();
        let everywhere = (self.world.plan_limits().max_hops as usize) < nodes || self.draw(3) == 0;
        for node in (0..nodes).filter(|n| everywhere || *n == one) {
            let (pattern, processor) = ("*".to_owned(), "closer".to_owned());
            let credit = one_of(&mut self.rng, &[1, 4, 64]) as u32;
            let (mode, lease) = (Mode::Finalise, Some(Span::secs(30)));
            let wish = Wish { node, pattern, processor, credit, mode, lease };
            let client = self.world.subscribe(wish);
            self.closers.push(client);
        }
    }

    fn converge(&mut self) -> Result<(), String> {
        self.world.set_think(Span::millis(1));
        if self.closers.is_empty() {
            self.subscribe_closers();
        }
        for round in 0..3 {
            for second in 0..300 {
                if self.world.checks.unfinished().is_empty() {
                    break;
                }
                if second % 50 == 49 {
                    self.redrive();
                }
                self.run_for(Span::secs(1))?;
            }
            if let Some((lane, id)) = self.world.checks.unfinished().first() {
                return Err(self.world.explain_stuck(*lane, *id));
            }
            self.run_for(Span::secs(3))?;
            if round == 0 {
                self.redrive();
                self.run_for(Span::secs(3))?;
            }
        }
        Ok(())
    }

    /// An object may wait for another one of its id that is parked.
    fn redrive(&mut self) {
        for node in 0..self.world.nodes().len() {
            self.world.operate(node, Operator::Redrive(Which::All));
        }
    }

    fn check_end(&mut self) -> Result<(), String> {
        self.world.run_for(Span::secs(3));
        self.world.checks.check_all_kept();
        self.checked()?;
        for node in 0..self.world.nodes().len() {
            self.world.answers.clear();
            self.world.operate(node, Operator::Types);
            let lane = self.world.nodes()[node].lane;
            let Some(Answer::Types(types)) = self.world.answers.pop() else {
                return Err(format!("P8: {} did not answer for its types", lane.short()));
            };
            self.world.checks.check_books(lane, &types);
            self.checked()?;
            self.world.compare_with_recovered(node)?;
        }
        Ok(())
    }
}

fn one_of(rng: &mut Pcg64Mcg, of: &[u64]) -> u64 {
    of[(rng.next_u64() % of.len() as u64) as usize]
}

fn draw_limits(rng: &mut Pcg64Mcg) -> Limits {
    let big = u64::from(u32::MAX);
    let mut one = |of: &[u64]| one_of(rng, of);
    Limits {
        lease: Span::millis(one(&[1_000, 5_000, 30_000])),
        failed_deliveries: one(&[2, 4]) as u32,
        backoff_max: Span::secs(one(&[1, 5])),
        redistribution_delay: Span::millis(one(&[300, 2_000, 5_000])),
        spill_after: Span::millis(one(&[10, 1_000])),
        max_hops: one(&[2, 8, 8]) as u32,
        offer_timeout: Span::millis(one(&[1_200, 2_000])),
        window_objects: one(&[2, 8, 1_024]) as usize,
        window_bytes: one(&[200, 10_000, big]),
        record_target_bytes: one(&[600, 4_000, 65_536]) as usize,
        part_bytes: one(&[4_000, 30_000, big]),
        part_ids: one(&[10, 100, big]) as usize,
        carry_slack_bytes: one(&[0, 5_000, big]),
        pages: one(&[20, big]) as usize,
        leases: one(&[3, 1_000_000]) as u32,
        transit: one(&[1, 3, 1_024]) as u32,
        ..Limits::default()
    }
}
