use super::*;

const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);

fn at(ms: u64) -> Mono {
    Mono(0) + Span::millis(ms)
}

/// Sessions 0, 1 and 2 with one subscription each, all of one group.
fn three() -> (Subscriptions, GroupId) {
    let mut subs = Subscriptions::default();
    let pattern = Pattern::new("acme.Order").expect("a good pattern");
    let name = Name::new("processor", "billing").expect("a good name");
    let group = subs.create_group(DemandKey::new(pattern, name));
    for n in 0..3 {
        subs.sessions.insert(SessionId(n), Session::default());
        subs.add((SessionId(n), SUBSCRIPTION), group, 50, Span::secs(30), Wall(0));
    }
    (subs, group)
}

/// A session has got and settled so many within 250 ms.
fn works(subs: &mut Subscriptions, session: u64, count: u64, until: Mono) {
    let session = subs.sessions.get_mut(&SessionId(session)).expect("it stands");
    let from = Mono(until.0 - Span::millis(250).0);
    (0..count).for_each(|lease| session.hold(lease, from, |_| true));
    (0..count).for_each(|_| session.let_go(true, until));
}

/// Who gets so many objects at one moment.
fn given(subs: &mut Subscriptions, group: GroupId, count: usize, now: Mono) -> Vec<u64> {
    let mut next = || subs.next_free(group, now).map(|((session, _), _)| session.0);
    std::iter::from_fn(&mut next).take(count).collect()
}

/// Whoever subscribes anew under the same number has not more in hand than its credit.
#[test]
fn what_a_subscription_leaves_unsettled_uses_the_credit_of_the_next_one_of_its_number() {
    let (mut subs, group) = three();
    let key = (SessionId(1), SUBSCRIPTION);
    [0, 2].into_iter().for_each(|n| _ = subs.remove((SessionId(n), SUBSCRIPTION)));
    assert_eq!(given(&mut subs, group, 3, at(0)), [1, 1, 1]);
    subs.remove(key);
    assert_eq!((subs.group(group).free, subs.group(group).credit), (0, 0));
    assert_eq!(subs.free_one(key, true, Wall(0)), None);
    subs.add(key, group, 50, Span::secs(30), Wall(0));
    assert_eq!(subs.group(group).free, 48);
    (0..2).for_each(|_| _ = subs.free_one(key, true, Wall(0)));
    assert_eq!(subs.group(group).free, 50);
    subs.remove(key);
    subs.add(key, group, 50, Span::secs(30), Wall(0));
    assert_eq!(subs.group(group).free, 50, "nothing was left");
}

#[test]
fn those_of_whom_nothing_is_known_have_one_each_in_turn() {
    let (mut subs, group) = three();
    assert_eq!(given(&mut subs, group, 7, at(0)), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn who_is_fast_gets_as_many_in_a_row_as_it_has_settled_of_late() {
    let (mut subs, group) = three();
    works(&mut subs, 1, 3, at(400));
    let wanted = [0, 1, 1, 1, 2, 0, 1, 1, 1, 2];
    assert_eq!(given(&mut subs, group, 10, at(400)), wanted);
    assert_eq!(given(&mut subs, group, 4, at(1_500)), [0, 1, 2, 0]);
}

#[test]
fn at_another_moment_the_next_one_has_its_turn() {
    let (mut subs, group) = three();
    (0..3).for_each(|session| works(&mut subs, session, 9, at(300)));
    let singly = (0..6).flat_map(|ms| given(&mut subs, group, 1, at(300 + ms)));
    assert_eq!(singly.collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_row_ends_with_the_credit_and_is_bounded() {
    let (mut subs, group) = three();
    works(&mut subs, 0, 1_000, at(300));
    subs.set_credit((SessionId(0), SUBSCRIPTION), 5);
    assert_eq!(given(&mut subs, group, 7, at(300)), [0, 0, 0, 0, 0, 1, 2]);
    assert!(subs.free_one((SessionId(0), SUBSCRIPTION), true, Wall(0)).is_some());
    assert_eq!(given(&mut subs, group, 3, at(300)), [1, 2, 0]);
    subs.set_credit((SessionId(0), SUBSCRIPTION), 1_000);
    let given = given(&mut subs, group, 300, at(300));
    let longest = given.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
    assert_eq!(longest, Some(pace::ROW_MAX as usize));
}
