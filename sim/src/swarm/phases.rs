//! The two phases of a run: everything at once, checked at every step; then everything heals and
//! has to come to an end, and what does not is named.

use std::collections::BTreeSet;

use dpc_core::Answer;
use dpc_core::input::{Operator, Which};
use dpc_core::time::{Mono, Span};

use super::action::{Action, Step};
use super::perform::Stage;
use super::setup::Setup;
use crate::world::World;

/// No run needs more events than this for each action.
const STEPS_PER_ACTION_MAX: u64 = 4_000;

/// How many seconds after the last fault everything has come to its end.
const PATIENCE_S: u64 = 300;

/// After so long everybody has noticed that a link is gone, and has dialled anew.
const NOTICED: Span = Span::secs(45);

/// About so many objects `why` is asked at the end.
const ASKED_ABOUT: usize = 40;

/// A run under way.
pub(super) struct Run<'a> {
    setup: &'a Setup,
    stage: Stage,
    closers: Vec<usize>,
    /// Nodes that had another lane before.
    to_forget: BTreeSet<usize>,
    /// Some of them since before everything healed.
    forget_first: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(setup: &'a Setup) -> Self {
        let mut world = World::new(setup.plan.clone());
        world.check_every = if setup.plan.trace { 1 } else { 7 };
        // Ids of what is emitted begin behind those of what the schedule pushes.
        world.skip_ids(setup.actions * 8);
        Self {
            setup,
            stage: Stage::new(world),
            closers: Vec::new(),
            to_forget: BTreeSet::new(),
            forget_first: false,
        }
    }

    pub(super) fn world(&mut self) -> &mut World {
        &mut self.stage.world
    }

    /// Both phases, and the checks at the end.
    pub(super) fn live(&mut self, schedule: &[Step]) -> Result<(), String> {
        if let Some(adopted_max) = self.setup.adopted_max {
            self.world().share_store(adopted_max);
        }
        for _ in 0..self.setup.nodes {
            self.world().add_node();
        }
        for (a, b) in &self.setup.links {
            self.stage.world.link(*a, *b);
        }
        if self.setup.closers_early {
            self.subscribe_closers();
        }
        for step in schedule {
            self.run_until(step.at)?;
            self.stage.perform(&step.action);
            self.checked()?;
        }
        self.run_until(Mono(self.setup.span.0))?;
        let replaced = schedule.iter().filter_map(|step| match step.action {
            Action::ReplaceDisk(node) => Some(node),
            _ => None,
        });
        self.to_forget.extend(replaced);
        self.forget_first = !self.to_forget.is_empty();
        self.ask_why_parked();
        self.heal()?;
        self.converge()?;
        self.check_end()
    }

    /// Amid everything somebody asks each node why one of its objects is parked.
    fn ask_why_parked(&mut self) {
        let world = self.world();
        for node in 0..world.nodes().len() {
            let lane = world.nodes()[node].lane;
            if let Some(id) = world.checks.model.lane(lane).parked() {
                world.operate(node, Operator::Inspect(id));
            }
        }
    }

    fn checked(&self) -> Result<(), String> {
        self.stage.world.broken().map_or(Ok(()), |what| Err(what.to_owned()))
    }

    fn run_until(&mut self, until: Mono) -> Result<(), String> {
        let most = (self.setup.actions + 40) * STEPS_PER_ACTION_MAX;
        while self.stage.world.step(until) {
            self.checked()?;
            if self.stage.world.steps > most {
                return Err(format!("P11: no end after {most} events, {}", self.stage.world.now()));
            }
        }
        let left = until - self.stage.world.now();
        self.stage.world.run_for(left);
        Ok(())
    }

    fn run_for(&mut self, span: Span) -> Result<(), String> {
        self.run_until(self.stage.world.now() + span)
    }

    /// The end of all faults: everything runs and can reach everything it is linked with.
    fn heal(&mut self) -> Result<(), String> {
        let clients = self.stage.clients();
        let world = &mut self.stage.world;
        world.say("everything heals");
        world.heal_everything();
        for client in clients {
            world.leave(client);
        }
        self.run_for(Span::secs(4))?;
        let world = &mut self.stage.world;
        for node in 0..world.nodes().len() {
            world.restart(node);
            world.tell_disk(node, false);
            world.operate(node, Operator::Resume);
            world.operate(node, Operator::ConfirmClock);
        }
        self.run_for(Span::secs(5))?;
        self.mend()
    }

    /// People see to nodes whose disks are damaged, lost or old; when their peers have noticed that
    /// the lanes are gone, they forget them.
    fn mend(&mut self) -> Result<(), String> {
        let lost: Vec<usize> = self.world().mend();
        self.to_forget.extend(lost.iter().copied());
        if lost.is_empty() && !std::mem::take(&mut self.forget_first) {
            return Ok(());
        }
        self.run_for(NOTICED)?;
        for node in self.to_forget.clone() {
            self.world().forget_lost(node);
        }
        self.run_for(Span::secs(5))
    }

    fn subscribe_closers(&mut self) {
        for wish in &self.setup.closers {
            let client = self.stage.world.subscribe(wish.clone());
            self.closers.push(client);
        }
    }

    fn converge(&mut self) -> Result<(), String> {
        self.world().set_think(Span::millis(1));
        if self.closers.is_empty() {
            self.subscribe_closers();
        }
        for round in 0..3 {
            self.wait_for_the_end()?;
            if let Some((lane, id)) = self.world().checks.unfinished().first() {
                return Err(self.world().explain_stuck(*lane, *id));
            }
            self.run_for(Span::secs(3))?;
            if round == 0 {
                self.redrive();
                self.run_for(Span::secs(3))?;
            }
        }
        Ok(())
    }

    /// Runs until nothing is on its way, for as long as that may take: what must not be delivered
    /// before a time is waited for.
    fn wait_for_the_end(&mut self) -> Result<(), String> {
        let mut left = PATIENCE_S;
        while left > 0 && !self.world().checks.is_finished() {
            self.mend()?;
            let due = self.world().checks.model.latest_due();
            left =
                if due.is_some_and(|at| at > self.world().wall()) { PATIENCE_S } else { left - 1 };
            if left % 50 == 49 {
                self.redrive();
            }
            self.run_for(Span::secs(1))?;
        }
        Ok(())
    }

    /// An object may wait for another one of its id that is parked.
    fn redrive(&mut self) {
        let world = self.world();
        for node in 0..world.nodes().len() {
            world.operate(node, Operator::Redrive(Which::All));
        }
    }

    fn check_end(&mut self) -> Result<(), String> {
        self.run_for(Span::secs(3))?;
        self.world().checks.check_all_kept();
        self.checked()?;
        for node in 0..self.world().nodes().len() {
            let world = self.world();
            // One of the refused has just found the damage on its disk.
            if world.is_over(node) || world.nodes()[node].refused {
                continue;
            }
            world.answers.clear();
            world.operate(node, Operator::Types);
            let lane = world.nodes()[node].lane;
            let Some(Answer::Types(types)) = world.answers.pop() else {
                return Err(format!("P8: {} did not answer for its types", lane.short()));
            };
            world.checks.p13_books_balance(lane, &types);
            self.checked()?;
            if self.world().nodes()[node].disk.damaged().is_empty() {
                self.world().compare_with_recovered(node)?;
            }
        }
        self.world().checks.p13_moves_balance();
        self.world().checks.p17_all_decided();
        self.ask_why()?;
        self.stay_silent()?;
        self.world().read_all_disks();
        self.checked()
    }

    /// Nodes are asked about objects whose push they had answered OK.
    fn ask_why(&mut self) -> Result<(), String> {
        let all = self.world().checks.p17_answered_ok();
        let some = all.iter().step_by((all.len() / ASKED_ABOUT).max(1));
        for (lane, id) in some {
            let world = self.world();
            let node = world.node_of(*lane).expect("every lane has its node");
            if world.is_over(node) {
                // The lane was adopted and is retired: nobody runs it any more.
                continue;
            }
            world.answers.clear();
            world.operate(node, Operator::Inspect(*id));
            self.run_for(Span::millis(100))?;
            let world = self.world();
            match world.answers.pop() {
                _ if world.nodes()[node].refused => {}
                Some(Answer::View(view)) => world.checks.p17_state_is_true(*lane, &view),
                other => return Err(format!("P17: asked why, {} said {other:?}", lane.short())),
            }
            self.checked()?;
        }
        Ok(())
    }

    /// Nothing is said where nothing happens.
    fn stay_silent(&mut self) -> Result<(), String> {
        if self.world().checks.model.has_lost_lanes() {
            // What was known of a lost lane goes in its own time.
            return Ok(());
        }
        let up = |world: &World| world.nodes().iter().filter(|n| n.is_up()).count();
        let running = up(self.world());
        self.run_for(Span::secs(20))?;
        let before = self.world().traffic;
        self.run_for(Span::secs(60))?;
        let world = self.world();
        let said = world.traffic - before;
        if up(world) == running {
            // Nobody has found damage on its disk meanwhile.
            world.checks.p10_silent(said.messages + said.others);
        }
        self.checked()
    }
}
