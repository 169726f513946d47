//! Properties of the membership under any sequence of messages, and single rules.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::wire::Claim;
use super::wire::tests::{NOW, TestKey, claim, members_message, update};
use super::*;
use crate::wire::MAX_DATAGRAM;

const ME: NodeId = NodeId([0; 32]);

pub(super) fn id(number: u32) -> NodeId {
    let mut id = [7; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

fn me() -> Members {
    me_of(ME)
}

fn me_of(id: NodeId) -> Members {
    Members::new(NOW, id, Contact::default(), 1, Box::new(TestKey(id)))
}

/// A node with one other member, number 1.
fn me_and_another() -> Members {
    let mut members = me();
    members.hear(NOW, id(1), None, &[(member(1, 0), Status::Alive)]);
    members.take_datagrams();
    members
}

/// A member with an address of each kind, new at first.
pub(super) fn member(number: u32, incarnation: u32) -> Member {
    let at = |port| vec![(std::net::Ipv4Addr::from(0x0a00_0000 + number), port).into()];
    Member {
        id: id(number),
        contact: Arc::new(Contact::new(at(5001), at(5000))),
        incarnation,
        born: Born::from_age(NOW, Duration::ZERO),
    }
}

fn message(kind: Option<Kind>, updates: &[(Member, Status)]) -> MembersMessage {
    let signed = |(member, status): &(Member, Status)| update(&claim(member.clone(), *status));
    MembersMessage {
        kind,
        updates: updates.iter().map(signed).collect(),
    }
}

impl Members {
    /// Receives the introductions of members.
    fn meet_all(&mut self, now: Time, met: impl IntoIterator<Item = Member>) {
        for member in met {
            self.hear(now, member.id, None, &[(member.clone(), Status::Alive)]);
        }
    }

    fn hear(&mut self, now: Time, from: NodeId, kind: Option<Kind>, updates: &[(Member, Status)]) {
        let message = message(kind, updates);
        self.accept(now, from, message).expect("a valid message");
    }

    /// Receives these records, as they are signed, from the other member.
    fn hear_signed(&mut self, now: Time, claims: &[Claim]) -> Result<(), DecodeError> {
        let message = MembersMessage {
            kind: None,
            updates: claims.iter().map(update).collect(),
        };
        self.accept(now, id(1), message)
    }

    /// Ticks whenever it asks for that, and returns the time of the last tick.
    fn run(&mut self, start: Time, time: Duration) -> Time {
        let mut now = start;
        while self.next_deadline() <= start.after(time) {
            now = self.next_deadline();
            self.tick(now);
        }
        now
    }

    /// The messages of the membership that are to be sent.
    fn sent(&mut self) -> Vec<(NodeId, MembersMessage)> {
        let sent = self.take_datagrams().into_iter();
        sent.map(|datagram| match Message::from_datagram(datagram.bytes) {
            Ok((_, Message::Members(message))) => (datagram.to, message),
            other => panic!("{other:?}"),
        })
        .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Receive(u8, MembersMessage),
    Wait(u64),
    Probe(u8),
    Join(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_u8, members_message()).prop_map(|(from, message)| Step::Receive(from, message)),
        2 => (1..40_000_u64).prop_map(Step::Wait),
        1 => (0..8_u8).prop_map(Step::Probe),
        1 => (0..8_u8).prop_map(Step::Join),
    ]
}

proptest! {
    #[test]
    fn changes_add_up_to_the_members(steps in prop::collection::vec(step(), 0..60)) {
        let mut now = NOW;
        let mut members = me();
        let mut listed = BTreeSet::new();
        let mut incarnation = 0;
        for step in steps {
            let id = |number| NodeId([number; 32]);
            match step {
                Step::Receive(from, message) => members.accept(now, id(from), message)?,
                Step::Wait(wait) => now = Time(now.0 + wait),
                Step::Probe(number) => members.probe_now(now, id(number)),
                Step::Join(seed) => members.join(now, [id(seed)]),
            }
            // It does not ask to be woken for what it has just done.
            for _ in 0..3 {
                members.tick(now);
            }
            prop_assert!(members.next_deadline() > now);

            for change in members.take_changes() {
                match change {
                    Change::Joined(member) => prop_assert!(listed.insert(member.id)),
                    Change::Updated(member) => prop_assert!(listed.contains(&member.id)),
                    Change::Left(id) => prop_assert!(listed.remove(&id)),
                }
            }
            let all: BTreeSet<_> = members.iter().map(|member| member.id).collect();
            prop_assert_eq!(&all, &listed);
            prop_assert_eq!(all.len(), members.len());
            prop_assert!(all.contains(&ME), "a node never removes itself");
            prop_assert!(members.me().incarnation >= incarnation);
            incarnation = members.me().incarnation;
            for datagram in members.take_datagrams() {
                prop_assert!(datagram.to != ME);
                prop_assert!(datagram.bytes.len() <= MAX_DATAGRAM);
            }
        }
    }
}

#[test]
fn a_node_that_has_left_sends_nothing() {
    let mut members = me();
    let ping = || Some(Kind::Ping(Probe::default()));
    members.hear(NOW, id(1), ping(), &[(member(1, 0), Status::Alive)]);
    members.take_datagrams();

    members.leave();
    assert_eq!(members.take_datagrams().len(), 1);
    members.hear(NOW, id(1), ping(), &[]);
    members.tick(NOW.after(Duration::from_secs(60)));
    assert_eq!(members.take_datagrams(), []);
}

/// Measured with a list of 1,000 members: 124 bytes each, 66 of them for the signature.
#[test]
fn lists_and_gossip_are_small() {
    let mut members = me_and_another();
    members.meet_all(NOW, (2..1_000).map(|number| member(number, 0)));
    members.take_datagrams();
    let sync = Kind::Sync(wire::Sync {
        joining: true,
        bucket_hashes: vec![1; 64],
    });
    members.hear(NOW, id(1), Some(sync), &[]);
    let answer: Vec<_> = members.take_datagrams();
    let bytes: usize = answer.iter().map(|datagram| datagram.bytes.len()).sum();
    println!("1,000 members: {bytes} bytes in {} messages", answer.len());
    assert!(bytes < 125_000, "{bytes}");

    members.tick(NOW.after(timing::GOSSIP_BATCH));
    let gossip = members.sent();
    assert_eq!(gossip.len(), timing::FANOUT);
    let told = gossip[0].1.updates.len();
    println!("gossip about {told} members of at most {GOSSIP} bytes");
    assert!(told > GOSSIP / 130, "{told}");
}

#[test]
fn a_list_that_needs_several_messages_is_complete() {
    let mut members = me_and_another();
    members.meet_all(NOW, (2..=3_000).map(|number| member(number, 0)));
    members.take_datagrams();
    let sync = Kind::Sync(wire::Sync {
        joining: true,
        bucket_hashes: vec![1; 64],
    });
    members.hear(NOW, id(1), Some(sync), &[]);
    let parts = members.take_datagrams();
    assert_eq!(parts.len(), 6);

    let mut joining = Members::new(
        NOW,
        id(5_000),
        Contact::default(),
        2,
        Box::new(TestKey(id(5_000))),
    );
    joining.join(NOW, [ME]);
    joining.take_datagrams();
    for part in parts.iter().rev() {
        assert!(!joining.has_joined());
        joining
            .receive(NOW, ME, part.bytes.clone())
            .expect("a valid message");
    }
    assert!(joining.has_joined());
    assert_eq!(joining.len(), 3_002);
    // It cannot tell what is missing in the buckets that were split. In the others only itself is.
    let sent = joining.sent();
    let lacking = sent.iter().flat_map(|(_, message)| &message.updates);
    let mut lacking: Vec<_> = lacking.map(|update| update.id.clone()).collect();
    lacking.dedup();
    assert_eq!(lacking, [node_field(Some(id(5_000)))]);
}

/// The members that are probed.
fn probed(members: &mut Members) -> Vec<NodeId> {
    let sent = members.sent().into_iter();
    let pings = sent.filter(|(_, message)| matches!(message.kind, Some(Kind::Ping(_))));
    pings.map(|(to, _)| to).collect()
}

#[test]
fn what_others_say_of_a_member_causes_one_probe_and_no_more() {
    let list = || Some(Kind::List(wire::List::default()));
    for status in [Status::Suspect, Status::Dead] {
        for kind in [None, list()] {
            let mut members = me_and_another();
            members.hear(NOW, id(2), None, &[(member(2, 3), Status::Alive)]);
            members.take_datagrams();
            for _ in 0..9 {
                members.hear(NOW, id(1), kind.clone(), &[(member(2, 3), status)]);
                members.tick(NOW);
            }
            assert_eq!(probed(&mut members), [id(2)], "{status:?}");
            assert_eq!(members.get(&id(2)), Some(&member(2, 3)));
            let ack = Some(Kind::Ack(Probe {
                number: members.probes.last(),
                ..Probe::default()
            }));
            members.hear(NOW, id(2), ack, &[]);
            members.run(NOW, Duration::from_secs(1));
            assert!(members.get(&id(2)).is_some());
        }
    }
}

#[test]
fn a_stranger_tells_nothing_about_others() {
    let list = || Some(Kind::List(wire::List::default()));
    for kind in [None, list(), Some(Kind::Ping(Probe::default()))] {
        for status in [Status::Alive, Status::Suspect, Status::Dead, Status::Left] {
            let mut members = me_and_another();
            let about = [1, 2].map(|number| (member(number, 9), status));
            members.hear(NOW, id(3), kind.clone(), &about);
            members.tick(NOW);
            assert_eq!(probed(&mut members), [], "{status:?}");
            let known: BTreeSet<_> = members.iter().map(|it| (it.id, it.incarnation)).collect();
            assert_eq!(known, [(ME, 0), (id(1), 0)].into(), "{status:?}");
        }
    }
}

#[test]
fn a_record_counts_with_the_signature_of_its_member_only() {
    let mut members = me_and_another();
    members.hear(NOW, id(2), None, &[(member(2, 3), Status::Alive)]);
    let forgeries = [Status::Alive, Status::Suspect, Status::Dead, Status::Left];
    for status in forgeries {
        for incarnation in [3, 4, u32::MAX] {
            let mut forged = claim(member(2, incarnation), status);
            forged.signature = TestKey(id(1)).sign(b"anything");
            let _ = members.hear_signed(NOW, &[forged]);
            assert_eq!(members.get(&id(2)), Some(&member(2, 3)));
        }
    }
    // A signature of a living record is not valid for a departure, nor the reverse.
    for (signed, told) in [(Status::Alive, Status::Left), (Status::Left, Status::Alive)] {
        let replayed = Claim {
            status: told,
            ..claim(member(2, 4), signed)
        };
        let refused = Err(DecodeError::Signature(id(2)));
        assert_eq!(members.hear_signed(NOW, &[replayed]), refused);
        assert_eq!(members.get(&id(2)), Some(&member(2, 3)));
    }
    members.hear(NOW, id(1), None, &[(member(2, 4), Status::Alive)]);
    assert_eq!(members.get(&id(2)), Some(&member(2, 4)));
    members.hear(NOW, id(1), None, &[(member(2, 4), Status::Left)]);
    assert!(members.get(&id(2)).is_none());
    members.hear(NOW, id(1), None, &[(member(2, 4), Status::Alive)]);
    assert!(members.get(&id(2)).is_none(), "it has left");
    members.hear(NOW, id(1), None, &[(member(2, 5), Status::Dead)]);
    assert!(members.get(&id(2)).is_none(), "bad of a life never seen");
    members.hear(NOW, id(1), None, &[(member(2, 5), Status::Alive)]);
    assert!(members.get(&id(2)).is_none(), "others say so");
    members.tick(NOW);
    assert_eq!(probed(&mut members), [id(2)]);
    members.hear(NOW, id(2), Some(Kind::Ack(Probe::default())), &[]);
    assert!(members.get(&id(2)).is_some());
}

#[test]
fn others_cannot_use_up_the_incarnations() {
    let mut members = me_and_another();
    let mut now = NOW;
    for incarnation in [0, 1, 5, u32::MAX - 1, u32::MAX] {
        for status in [Status::Alive, Status::Suspect, Status::Dead, Status::Left] {
            let me = Member {
                id: ME,
                ..member(0, incarnation)
            };
            let mut forged = claim(me, status);
            forged.signature = TestKey(id(1)).sign(b"anything");
            for _ in 0..100 {
                let _ = members.hear_signed(now, &[forged.clone()]);
                now = Time(now.0 + 1);
            }
        }
    }
    // Claims for 2 s, and at most one refutation a second.
    assert!(
        members.me().incarnation <= 3,
        "{}",
        members.me().incarnation
    );
    let earlier = Member {
        id: ME,
        ..member(0, 70)
    };
    members.hear(now, id(1), None, &[(earlier, Status::Alive)]);
    assert_eq!(members.me().incarnation, 71, "an earlier process");
}

#[test]
fn whom_another_one_names_is_probed_and_becomes_a_member_when_it_answers() {
    for status in [Status::Alive, Status::Suspect] {
        let mut members = me_and_another();
        for number in [2, 3] {
            members.hear(NOW, id(1), None, &[(member(number, 3), status)]);
        }
        assert!(members.get(&id(2)).is_none());
        assert_eq!(members.contact(&id(2)), Some(&*member(2, 3).contact));
        members.tick(NOW);
        assert_eq!(probed(&mut members), [id(2), id(3)]);
        members.hear(NOW, id(2), Some(Kind::Ack(Probe::default())), &[]);
        assert_eq!(members.get(&id(2)), Some(&member(2, 3)));
        members.run(NOW, Duration::from_secs(9));
        assert_eq!(members.contact(&id(3)), None, "it does not answer");
    }
}

#[test]
fn others_cannot_make_a_member_older() {
    let mut members = me_and_another();
    let mut old = member(1, 0);
    old.born = Born::from_age(NOW, Duration::from_secs(400));
    let now = NOW.after(Duration::from_secs(1));
    let age = |members: &Members, number| {
        let member = members.get(&id(number)).expect("a member");
        member.born.age(now)
    };
    members.meet_all(NOW, [member(2, 0)]);
    members.hear(now, id(2), None, &[(old.clone(), Status::Alive)]);
    assert_eq!(age(&members, 1), Duration::from_secs(11));
    old.incarnation = 1;
    members.hear(now, id(1), None, &[(old.clone(), Status::Alive)]);
    assert_eq!(age(&members, 1), Duration::from_secs(11));
    let mut unknown = member(3, 0);
    unknown.born = old.born;
    members.meet_all(now, [unknown]);
    assert_eq!(age(&members, 3), Duration::from_secs(10));
}

#[test]
fn a_wrong_clock_keeps_nobody_from_being_heard() {
    let now = |seconds: u64| 1_577_836_800 + seconds;
    let start = |unix_seconds| me().at_time_of_day(unix_seconds);
    assert_eq!(start(now(7)).me().incarnation, 7);
    assert_eq!(start(0).me().incarnation, 0, "a clock that was never set");
    // An earlier process had its clock in the future, and has left.
    let earlier = start(u64::MAX).me().clone();
    assert!(earlier.incarnation < u32::MAX - 1_000_000);
    let mut other = me_of(id(9));
    other.hear(NOW, ME, None, &[(earlier.clone(), Status::Alive)]);
    other.hear(NOW, ME, None, &[(earlier, Status::Left)]);
    let mut me = start(now(7));
    me.join(NOW, [id(9)]);
    for _ in 0..4 {
        for Datagram { bytes, .. } in me.take_datagrams() {
            other.receive(NOW, ME, bytes).expect("valid");
        }
        for Datagram { bytes, .. } in other.take_datagrams() {
            me.receive(NOW, id(9), bytes).expect("valid");
        }
        me.tick(NOW.after(timing::GOSSIP_BATCH));
    }
    assert!(other.get(&ME).is_some());
}

#[test]
fn any_message_of_a_suspect_ends_the_suspicion() {
    let mut members = me_and_another();
    members.probe_now(NOW, id(1));
    let now = members.run(NOW, Duration::from_secs(4));
    let status = |members: &Members| members.roster.get(&id(1)).map(|entry| entry.status);
    assert_eq!(status(&members), Some(Status::Suspect));
    members.hear(now, id(1), None, &[]);
    assert_eq!(status(&members), Some(Status::Alive));
    members.tick(now.after(timing::SUSPICION));
    assert!(members.get(&id(1)).is_some());
}

#[test]
fn helpers_pass_probes_and_answers_on() {
    let [origin, helper, target] = [1, 2, 3].map(|number| member(number, 0));
    let everybody = [&origin, &helper, &target].map(|it| (it.clone(), Status::Alive));
    let start = |me: &Member| {
        let keys = Box::new(TestKey(me.id));
        let mut members = Members::new(NOW, me.id, Contact::default(), 1, keys);
        for (member, status) in everybody.iter().filter(|(member, _)| member.id != me.id) {
            members.hear(NOW, member.id, None, &[(member.clone(), *status)]);
        }
        members.take_datagrams();
        members
    };
    let [mut at_origin, mut at_helper, mut at_target] = [&origin, &helper, &target].map(start);
    let probe = |members: &mut Members, to: NodeId| {
        let sent = members.sent().into_iter();
        let is_it = |(recipient, message): &(NodeId, MembersMessage)| {
            *recipient == to && matches!(message.kind, Some(Kind::Ping(_) | Kind::Ack(_)))
        };
        sent.filter(is_it)
            .map(|(_, message)| message)
            .next()
            .expect("a probe or its answer")
    };

    at_origin.probe_now(NOW, target.id);
    at_origin.take_datagrams();
    let asked = NOW.after(timing::DIRECT_WAIT);
    at_origin.tick(asked);
    let ping = probe(&mut at_origin, helper.id);
    at_helper.accept(asked, origin.id, ping).expect("valid");
    let ping = probe(&mut at_helper, target.id);
    at_target.accept(asked, helper.id, ping).expect("valid");
    let ack = probe(&mut at_target, helper.id);
    // Another node cannot answer for the target.
    at_helper.meet_all(asked, [member(9, 0)]);
    at_helper.accept(asked, id(9), ack.clone()).expect("valid");
    let forged = probe(&mut at_helper, origin.id);
    at_origin.accept(asked, helper.id, forged).expect("valid");
    assert!(at_origin.probes.next_deadline().is_some());

    at_helper.accept(asked, target.id, ack).expect("valid");
    let ack = probe(&mut at_helper, origin.id);
    // Nor can a node that was not asked to help.
    at_origin.accept(asked, id(9), ack.clone()).expect("valid");
    assert!(at_origin.probes.next_deadline().is_some());
    at_origin.accept(asked, helper.id, ack).expect("valid");
    assert_eq!(at_origin.probes.next_deadline(), None);
}

#[test]
fn a_node_that_was_stopped_declares_nobody_dead() {
    let mut members = me();
    members.hear(NOW, id(1), None, &[(member(1, 0), Status::Alive)]);
    members.probe_now(NOW, id(1));
    let mut now = members.run(NOW, Duration::from_secs(3));
    let is_told = |members: &mut Members| {
        let sent = members.sent();
        let updates = sent.iter().flat_map(|(_, message)| &message.updates);
        let statuses: Vec<_> = updates.map(MemberUpdate::status).collect();
        statuses.contains(&Status::Suspect)
    };
    assert!(is_told(&mut members), "the member does not answer");
    // The node is stopped; the member's answer waits meanwhile.
    now = now.after(Duration::from_secs(60));
    members.tick(now);
    assert!(members.get(&id(1)).is_some());
    members.hear(now, id(1), None, &[(member(1, 1), Status::Alive)]);
    members.tick(now.after(timing::SUSPICION));
    assert!(members.get(&id(1)).is_some());
}

/// Counts what it verifies.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<AtomicUsize>);

impl Signatures for Counting {
    fn sign(&self, record: &[u8]) -> Signature {
        TestKey(ME).sign(record)
    }

    fn verify(&self, id: &NodeId, record: &[u8], signature: &Signature) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        TestKey(ME).verify(id, record, signature)
    }
}

impl Counting {
    /// A node with one other member, number 1.
    fn node(&self) -> Members {
        let keys = Box::new(self.clone());
        let mut members = Members::new(NOW, ME, Contact::default(), 1, keys);
        members.hear(NOW, id(1), None, &[(member(1, 0), Status::Alive)]);
        self.0.store(0, Ordering::Relaxed);
        members
    }

    fn taken(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn the_first_false_signature_ends_a_message() {
    let counting = Counting::default();
    let mut members = counting.node();
    let forged = (2..600).map(|number| Claim {
        signature: [0; 64],
        ..claim(member(number, 0), Status::Alive)
    });
    let forged: Vec<_> = forged.collect();
    let refused = Err(DecodeError::Signature(id(2)));
    assert_eq!(members.hear_signed(NOW, &forged), refused);
    assert_eq!(counting.taken(), 1);
}

#[test]
fn a_record_that_is_known_is_not_verified_again() {
    let counting = Counting::default();
    let mut members = counting.node();
    let named = claim(member(2, 3), Status::Alive);
    for _ in 0..9 {
        assert_eq!(
            members.hear_signed(NOW, std::slice::from_ref(&named)),
            Ok(())
        );
    }
    members.hear(NOW, id(2), Some(Kind::Ack(Probe::default())), &[]);
    assert!(members.get(&id(2)).is_some());
    let older = claim(member(2, 2), Status::Alive);
    assert_eq!(members.hear_signed(NOW, &[named, older]), Ok(()));
    assert_eq!(counting.taken(), 1);
}

#[test]
fn few_signatures_are_verified_for_one_node_but_those_of_a_list_that_it_was_asked_for() {
    let counting = Counting::default();
    let mut members = counting.node();
    let raised = |incarnation| (member(1, incarnation), Status::Alive);
    for incarnation in 1..10_000 {
        members.hear(NOW, id(1), None, &[raised(incarnation)]);
    }
    assert_eq!(counting.taken(), 511, "and one when it introduced itself");
    let later = NOW.after(Duration::from_secs(1));
    for incarnation in 10_000..20_000 {
        members.hear(later, id(1), None, &[raised(incarnation)]);
    }
    assert_eq!(counting.taken(), 50);
    // A stranger that changes its record all the time.
    for incarnation in 0..1_000 {
        let mut about_itself = member(3, incarnation);
        about_itself.id = id(3);
        members.hear(NOW, id(3), None, &[(about_itself, Status::Alive)]);
    }
    assert!(counting.taken() <= 512);

    let mut joining = Members::new(NOW, ME, Contact::default(), 1, Box::new(counting.clone()));
    joining.join(NOW, [id(1)]);
    let list = Some(Kind::List(wire::List::default()));
    let all: Vec<_> = (1..=600).map(|n| (member(n, 0), Status::Alive)).collect();
    joining.hear(NOW, id(1), list, &all);
    assert_eq!(joining.len(), 601);
}

#[test]
fn one_host_is_few_members_however_many_keys_it_has() {
    let mut members = me_and_another();
    let host = |host| Some([10, 0, 0, host].into());
    let hear = |members: &mut Members, number, host, kind| {
        let sender = Sender {
            id: id(number),
            host,
        };
        let about_itself = message(kind, &[(member(number, 0), Status::Alive)]);
        members.accept(NOW, sender, about_itself).expect("valid");
    };
    for number in 100..200 {
        hear(&mut members, number, host(1), None);
    }
    assert_eq!(members.len(), 2 + 16);
    // Nor those that others name, once they answer.
    let named: Vec<_> = (200..300).map(|n| (member(n, 0), Status::Alive)).collect();
    members.hear(NOW, id(1), None, &named);
    for number in 200..250 {
        let ack = Some(Kind::Ack(Probe::default()));
        hear(&mut members, number, host(1), ack);
    }
    assert_eq!(members.len(), 2 + 16);
    hear(&mut members, 250, host(2), None);
    hear(&mut members, 251, None, None);
    assert_eq!(members.len(), 2 + 18);
    // One that has left makes room.
    members.hear(NOW, id(100), None, &[(member(100, 0), Status::Left)]);
    hear(&mut members, 150, host(1), None);
    assert!(members.get(&id(150)).is_some());
}

#[test]
fn one_host_makes_no_cluster_large() {
    let mut members = me_and_another();
    for number in 100..400 {
        let sender = Sender {
            id: id(number),
            host: Some([10, 0, (number / 10) as u8, 1].into()),
        };
        let about_itself = message(None, &[(member(number, 0), Status::Alive)]);
        members.accept(NOW, sender, about_itself).expect("valid");
    }
    assert_eq!(members.len(), 302);
    members.hear(NOW, id(1), None, &[(member(500, 0), Status::Alive)]);
    assert!(members.get(&id(500)).is_none(), "it is probed first");
}
