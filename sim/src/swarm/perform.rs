//! How an action of a schedule is done to a world.

use std::collections::BTreeMap;

use super::action::{Action, Pushed};
use crate::world::{Pushing, World};

/// A world with what its actions need to know.
pub(super) struct Stage {
    pub(super) world: World,
    /// The world's number of each client of the schedule that has subscribed.
    clients: BTreeMap<usize, usize>,
}

impl Stage {
    pub(super) fn new(world: World) -> Self {
        Self { world, clients: BTreeMap::new() }
    }

    /// The clients of the schedule.
    pub(super) fn clients(&self) -> Vec<usize> {
        self.clients.values().copied().collect()
    }

    pub(super) fn perform(&mut self, action: &Action) {
        match action {
            Action::Push { node, push, how, retries, retry_at } => {
                self.world.coverage.add(match how {
                    Pushed::New => "pushed",
                    Pushed::Again => "id pushed again",
                    Pushed::Elsewhere => "id pushed at two nodes",
                    Pushed::Changed => "id pushed with other content",
                });
                let (node, retries, retry_at) = (*node, *retries, *retry_at);
                self.world.send_push(Pushing { node, push: push.clone(), retries, retry_at });
            }
            Action::Subscribe { client, wish } => {
                let there = self.world.subscribe(wish.clone());
                self.clients.insert(*client, there);
            }
            Action::Take { node, pattern, processor, count, mode } => {
                self.world.take(*node, pattern, processor, *count, mode.clone());
            }
            Action::Operate(node, order) => self.world.operate(*node, order.clone()),
            Action::SettleOld { node, ago } => self.world.settle_old(*node, *ago),
            Action::SettleMixed { node, ago } => self.world.settle_mixed(*node, *ago),
            Action::SettleForged { node, ago, how } => {
                self.world.settle_forged(*node, *ago, *how);
            }
            Action::SettleOfOther(client, other) => {
                let both = (self.clients.get(client).copied(), self.clients.get(other).copied());
                if let (Some(client), Some(other)) = both {
                    self.world.settle_of_other(client, other);
                }
            }
            Action::Unsubscribe(client)
            | Action::Leave(client)
            | Action::Reconnect(client)
            | Action::SubscribeAgain(client)
            | Action::Credit(client, _)
            | Action::SettleTwice { client, .. }
            | Action::BadEmits(client, _)
            | Action::BadSubscribe(client)
            | Action::Extend(client)
            | Action::Transact { client, .. } => {
                if let Some(client) = self.clients.get(client) {
                    self.client(*client, action);
                }
            }
            _ => self.fault(action),
        }
    }

    fn client(&mut self, client: usize, action: &Action) {
        let world = &mut self.world;
        match action {
            Action::Unsubscribe(_) => world.unsubscribe(client),
            Action::Leave(_) => {
                world.coverage.add_if("vanished with leases", !world.hand(client).is_empty());
                world.leave(client);
            }
            Action::Reconnect(_) => world.reconnect(client),
            Action::SubscribeAgain(_) => world.subscribe_again(client),
            Action::Credit(_, credit) => world.set_credit(client, *credit),
            Action::SettleTwice { first, second, .. } => {
                if let Some(lease) = world.hand(client).first().copied() {
                    world.settle_twice(client, lease, first.clone(), second.clone());
                }
            }
            Action::BadEmits(_, how) => world.bad_emits(client, *how),
            Action::BadSubscribe(_) => world.bad_subscribe(client),
            Action::Extend(_) => world.extend(client),
            Action::Transact { modes, push, .. } => {
                let leases: Vec<u64> = world.hand(client).into_iter().take(modes.len()).collect();
                world.transact(client, &leases, modes, *push);
            }
            other => unreachable!("{other:?} is not done by a client"),
        }
    }

    fn fault(&mut self, action: &Action) {
        let world = &mut self.world;
        let until = |span| world.now() + span;
        match action {
            Action::Kill(node, power) => world.kill(*node, *power),
            Action::CrashAt { node, point, power, times } => {
                world.crash_at(*node, *point, *power, *times);
            }
            Action::Restart(node) => world.restart(*node),
            Action::Pause(node) => world.pause(*node),
            Action::Resume(node) => world.resume_process(*node),
            Action::Cut(wire, notice) => world.cut_noticed(*wire, *notice),
            Action::Heal(wire) => world.heal(*wire),
            Action::Break(wire) => world.reset(*wire),
            Action::Hold(wire) => world.hold(*wire),
            Action::LetGo(wire) => world.let_go(*wire),
            Action::HoldWay(wire, side) => world.hold_way(*wire, *side),
            Action::Throttle(wire, gap) => world.throttle(*wire, *gap),
            Action::Slow(wire, extra) => world.slow(*wire, *extra),
            Action::DiskFault(node, fault) => world.nodes()[*node].disk.fail_next(*fault),
            Action::ReadFails(node) => world.nodes()[*node].disk.fail_next_read(),
            Action::Stall(node, span) => world.nodes()[*node].disk.stall(until(*span)),
            Action::Fill(node, left) => world.nodes()[*node].disk.leave_room(*left),
            Action::DiskLow(node, low) => world.tell_disk(*node, *low),
            Action::ClockJump(node, ms) => world.jump_clock(*node, *ms),
            Action::Damage(node, kind, permille) => world.damage(*node, *kind, *permille),
            Action::BackUp(node) => world.back_up(*node),
            Action::PutBack(node) => world.put_back(*node),
            Action::ReplaceDisk(node) => world.replace_disk(*node),
            Action::ClockDrift(node, ppm) => world.drift_clock(*node, *ppm),
            Action::Store(rates) => world.set_store_rates(*rates),
            Action::StoreCut(node, span) => world.cut_from_store(*node, *span),
            Action::Gone(node) => world.lose_for_ever(*node),
            other => unreachable!("{other:?} is not a fault"),
        }
    }
}
