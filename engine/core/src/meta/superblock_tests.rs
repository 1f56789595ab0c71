//! Tests of the superblock and its two copies: bytes, crash points, and everything that is refused.

use proptest::prelude::*;

use super::{
    crash::{Medium, every_crash},
    geometry::Geometry,
    header::{CopyId, Fault},
    layout::{Layout, MetaWrite, SUPERBLOCK_BYTES},
    superblock::{Evidence, Flags, PeerRecord, Superblock, decode, encode},
    superblock_pair::{Expectations, OpenError, Opened, SuperblockPair},
};
use crate::{
    generation::{
        history::{HISTORY_CAPACITY, History, Window},
        record::Standing,
        view::{Power, Replies},
    },
    ids::{
        AttachCounter, BootId, COUNTER_END, ClusterId, Generation, GenerationId, InstanceId, MAX_PEERS,
        NodeId, PeerIndex, Term, VolumeId,
    },
};

const NODE: NodeId = NodeId(0x0A0A_0B0B_0C0C_0D0D);

fn generation(number: u64) -> Generation {
    let term = Term { number, node: NODE };
    Generation { id: GenerationId(u128::from(number) << 64 | 0xFEED), term }
}

fn layout(peers: usize) -> Layout {
    let geometry = Geometry::new(64 << 20, 4096, 1 << 20, 64).unwrap();
    Layout::new(geometry, PeerIndex::all().take(peers)).unwrap()
}

/// A replica that has seen `age` updates in which nearly everything changes.
fn replica(age: u64) -> Superblock {
    let ancestors = (0..age.min(HISTORY_CAPACITY as u64)).map(|back| generation(age + 1 - back)).collect();
    let record = |node: u64| PeerRecord {
        node: NodeId(node),
        standing: Standing::Behind(Window { base: generation(1 + node).id, offered: generation(age + 2).id }),
        outdated_confirmed: age % 2 == 1,
        attach_counter_seen: AttachCounter(age + node),
        attach_counter_shown: AttachCounter(age),
    };
    let mut peers = [None; MAX_PEERS];
    peers[0] = Some(record(0x51));
    peers[1] = Some(record(0x52));
    Superblock {
        cluster: Some(ClusterId(0xC1)),
        volume: Some(VolumeId(0x70)),
        node: NODE,
        layout: layout(2),
        history: History::from_parts(Some(generation(age + 2)), ancestors, None).unwrap(),
        highest_term: Some(Term { number: age + 2, node: NODE }),
        boot: Some(BootId(0xB007 + u128::from(age))),
        instance: Some(InstanceId(0x1057 + u128::from(age))),
        attach_counter: AttachCounter(age + 1),
        given_up_at: AttachCounter::default(),
        counted_at_boot_nanos: 1_000_000 * age,
        clean_shutdown: age.is_multiple_of(3).then_some(AttachCounter(age + 1)),
        flags: Flags {
            consistent: true,
            was_up_to_date: age.is_multiple_of(2),
            entitled: true,
            ..Flags::default()
        },
        evidence: Evidence {
            power: if age.is_multiple_of(2) { Power::SameBoot } else { Power::Lost },
            settled: age.is_multiple_of(3),
            replies: if age.is_multiple_of(4) { Replies::Together } else { Replies::Ahead },
        },
        cache_in_doubt: age.is_multiple_of(5),
        peers,
    }
}

fn expectations(medium: &Medium) -> Expectations {
    Expectations { metadata_bytes: medium.len(), ..Expectations::default() }
}

fn open_with(medium: &Medium, expectations: &Expectations) -> Result<Opened, OpenError> {
    let copy = |copy| medium.read(Layout::superblock_at(copy).0, SUPERBLOCK_BYTES);
    SuperblockPair::open(Some(copy(CopyId::A)), Some(copy(CopyId::B)), expectations)
}

fn open(medium: &Medium) -> Result<Opened, OpenError> {
    open_with(medium, &expectations(medium))
}

/// A finished creation.
fn created(superblock: Superblock) -> (SuperblockPair, Medium) {
    let mut medium = Medium::new(superblock.layout.end());
    let (pair, writes) = SuperblockPair::create(superblock);
    medium.apply(&writes);
    (pair, medium)
}

fn update(pair: &mut SuperblockPair, medium: &mut Medium, to: Superblock) {
    let write = pair.update(to);
    medium.apply(&[write]);
    pair.committed();
}

#[test]
fn golden_bytes() {
    let bytes = encode(&replica(2), CopyId::B, 7);
    assert_eq!(bytes.len(), 8192);
    let expected: &[(usize, &str)] = &[
        (0, "45766b53"),                                                              // magic
        (8, "0200 01 ff 00000000"),                // version, copy, peer, index
        (16, "0d0d0c0c0b0b0a0a 0700000000000000"), // node, sequence
        (32, "c1000000000000000000000000000000"),  // cluster
        (48, "70000000000000000000000000000000"),  // volume
        (72, "0000000400000000 00100000 00001000 40000000"), // size, block, extent, slots
        (96, "0000020000000000 0040020000000000"), // log, end
        (112, "0020020000000000 0100000000000000 0030020000000000 0100000000000000"), // bitmaps
        (224, "09b00000000000000000000000000000"), // boot id
        (240, "59100000000000000000000000000000"), // instance
        (256, "0300000000000000 80841e0000000000 0000000000000000"), // counter, clock, clean
        (280, "0400000000000000 0d0d0c0c0b0b0a0a"), // highest term
        (296, "56010000 02000000 00000000000000000000000000000000"), // flags, ancestors, toward
        (320, "edfe000000000000 0400000000000000 0400000000000000 0d0d0c0c0b0b0a0a"), // head
        (352, "5100000000000000 edfe0000000000005200000000000000 edfe0000000000000400000000000000"),
        (392, "5300000000000000 00000000 00000000 0200000000000000"), // counter seen, flags, counter shown
        (416, "5200000000000000 edfe0000000000005300000000000000 edfe0000000000000400000000000000"),
        (456, "5400000000000000 00000000 00000000 0200000000000000"),
        (1024, "edfe000000000000 0300000000000000 0300000000000000 0d0d0c0c0b0b0a0a"), // newest ancestor
        (1056, "edfe000000000000 0200000000000000 0200000000000000 0d0d0c0c0b0b0a0a"),
    ];
    let mut golden = vec![0u8; SUPERBLOCK_BYTES];
    for (at, hex) in expected {
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        for (index, pair) in digits.chunks(2).enumerate() {
            golden[at + index] = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
    }
    golden[4..8].copy_from_slice(&GOLDEN_CRC.to_le_bytes());
    let differ: Vec<usize> = (0..SUPERBLOCK_BYTES).filter(|at| bytes[*at] != golden[*at]).collect();
    assert_eq!(differ, Vec::<usize>::new(), "these bytes differ");
}

/// Computed by another program from the bytes above.
const GOLDEN_CRC: u32 = 0x54AF36F5;

/// D3 and O10: whatever a crash leaves of an update, the old or the new state opens, and the next update works
/// from there and survives its own crash.
#[test]
fn d3_every_crash_of_two_updates_in_a_row() {
    let (mut pair, mut medium) = created(replica(60));
    update(&mut pair, &mut medium, replica(61));
    let (old, new, third) = (replica(61), replica(62), replica(63));
    let write = pair.update(new.clone());
    let mut tried = 0;
    every_crash(&medium, std::slice::from_ref(&write), |crashed| {
        let mut opened = open(crashed).expect("an interrupted update opens");
        assert!(!opened.may_be_old(), "{:?}", opened.other);
        assert!(opened.pair.sequence() >= pair.sequence());
        let first = opened.pair.current().clone();
        assert!(first == old || first == new);
        if tried < 128 || tried % 64 == 0 {
            let next = opened.pair.update(third.clone());
            every_crash(crashed, &[next], |crashed_again| {
                let opened = open(crashed_again).expect("an interrupted update opens");
                assert!(*opened.pair.current() == first || *opened.pair.current() == third);
            });
        }
        tried += 1;
    });
    assert!(tried > 150, "only {tried} states");
}

/// D3: an update that failed may have left anything where it went; the next one goes there again.
#[test]
fn d3_an_update_after_one_that_failed_spares_the_copy_that_is_whole() {
    let (mut pair, mut medium) = created(replica(60));
    update(&mut pair, &mut medium, replica(61));
    let torn = pair.update(replica(62));
    pair.failed();
    medium.apply(&[MetaWrite { bytes: vec![0xA5; torn.bytes.len()].into(), ..torn.clone() }]);
    let next = pair.update(replica(63));
    assert_eq!(next.offset, torn.offset);
    every_crash(&medium, &[next], |crashed| {
        let opened = open(crashed).expect("the copy of before is whole");
        assert!([replica(61), replica(63)].contains(opened.pair.current()));
    });
}

/// D3: a process died between write and flush, the next one reads the new state out of the cache. It must flush
/// before it writes: otherwise a power loss can tear both copies.
#[test]
fn d3_what_was_read_is_flushed_before_it_is_built_upon() {
    let (mut pair, mut medium) = created(replica(60));
    update(&mut pair, &mut medium, replica(61));
    let unflushed = pair.update(replica(62));
    let mut cached = medium.clone();
    cached.apply(std::slice::from_ref(&unflushed));
    let mut opened = open(&cached).unwrap();
    assert_eq!(*opened.pair.current(), replica(62));
    let next = opened.pair.update(replica(63));
    let (mut lost, mut kept) = (0, 0);
    every_crash(&medium, &[unflushed, next.clone()], |crashed| match open(crashed) {
        Ok(_) => kept += 1,
        Err(_) => lost += 1,
    });
    assert!(lost > 0 && kept > 0, "without the flush: {lost} states lost, {kept} kept");
    every_crash(&cached, &[next], |crashed| {
        let current = open(crashed).expect("with the flush nothing is lost").pair.current().clone();
        assert!(current == replica(62) || current == replica(63));
    });
}

/// D2, D3: a creation that was interrupted is recognised, on a new file and on a device with old content; once
/// the first copy is there everything else is.
#[test]
fn d2_every_crash_of_a_creation() {
    let superblock = replica(0);
    let len = superblock.layout.end();
    let mut predecessor = replica(7);
    predecessor.node = NodeId(0xDEAD);
    let (_, old_device) = created(predecessor.clone());
    for mut medium in [Medium::new(len), Medium::filled(len, 0xA5), old_device] {
        let blank = SuperblockPair::blank();
        every_crash(&medium, &blank, |crashed| match open(crashed) {
            Ok(found) => assert_eq!(*found.pair.current(), predecessor),
            Err(error) => assert!(matches!(error, OpenError::NotCreated | OpenError::NoGoodCopy { .. })),
        });
        medium.apply(&blank);
        let (_, [first, second]) = SuperblockPair::create(superblock.clone());
        let mut opened = 0;
        every_crash(&medium, std::slice::from_ref(&first), |crashed| match open(crashed) {
            Ok(found) => {
                assert_eq!(*found.pair.current(), superblock);
                assert!(!found.may_be_old());
                opened += 1;
            }
            Err(error) => assert_eq!(error, OpenError::NotCreated),
        });
        assert!(opened > 0);
        medium.apply(&[first]);
        every_crash(&medium, std::slice::from_ref(&second), |crashed| {
            let mut found = open(crashed).expect("the first copy is there");
            assert_eq!(*found.pair.current(), superblock);
            assert!(!found.may_be_old());
            let next = found.pair.update(replica(1));
            every_crash(crashed, &[next], |again| assert!(open(again).is_ok()));
        });
    }
}

/// D3: no flipped bit is taken for content.
#[test]
fn d3_every_flipped_bit() {
    let (mut pair, mut medium) = created(replica(0));
    update(&mut pair, &mut medium, replica(1));
    update(&mut pair, &mut medium, replica(2));
    let (old, new) = (replica(1), replica(2));
    for copy in [CopyId::A, CopyId::B] {
        let start = Layout::superblock_at(copy).0;
        for at in (0..1400).chain(SUPERBLOCK_BYTES as u64 - 2..SUPERBLOCK_BYTES as u64) {
            for bit in 0..8 {
                let byte = medium.read(start + at, 1)[0];
                medium.write(start + at, &[byte ^ (1 << bit)]);
                match open(&medium) {
                    Ok(opened) => {
                        let found = opened.pair.current();
                        assert!(opened.other.is_some());
                        assert!(*found == new || *found == old, "{copy} byte {at} bit {bit}");
                    }
                    Err(error) => panic!("one flipped bit closes the disk: {error}"),
                }
                medium.write(start + at, &[byte]);
            }
        }
    }
}

/// D6: a copy that was wiped or cannot be read may have been the newest.
#[test]
fn d6_a_lost_copy_is_not_taken_for_an_interrupted_update() {
    let (mut pair, mut medium) = created(replica(0));
    update(&mut pair, &mut medium, replica(1));
    update(&mut pair, &mut medium, replica(2));
    assert!(!open(&medium).unwrap().may_be_old());
    let newest = CopyId::B;
    medium.write(Layout::superblock_at(newest).0, &[0; SUPERBLOCK_BYTES]);
    let opened = open(&medium).unwrap();
    assert_eq!((opened.other, opened.may_be_old()), (Some(Fault::Empty), true));
    let a = medium.read(0, SUPERBLOCK_BYTES);
    let opened = SuperblockPair::open(Some(a), None, &expectations(&medium)).unwrap();
    assert_eq!((opened.other, opened.may_be_old()), (Some(Fault::Unreadable), true));
    medium.write(Layout::superblock_at(newest).0, &[0xFF; SUPERBLOCK_BYTES]);
    assert_eq!(open(&medium).unwrap().other, Some(Fault::Damaged));
    medium.write(0, &[0xFF; SUPERBLOCK_BYTES]);
    assert!(matches!(open(&medium), Err(OpenError::NoGoodCopy { .. })));
}

/// D3: swapped, misplaced, foreign, mixed and later ones are refused, with the reason.
#[test]
fn d3_what_does_not_belong_here_is_refused() {
    let (mut pair, mut medium) = created(replica(0));
    update(&mut pair, &mut medium, replica(1));
    let [a, b] =
        [CopyId::A, CopyId::B].map(|c| medium.read(Layout::superblock_at(c).0, SUPERBLOCK_BYTES).to_vec());
    let open = |a: &[u8], b: &[u8]| SuperblockPair::open(Some(a), Some(b), &expectations(&medium));

    let misplaced = |copy| OpenError::Refused { copy, fault: Fault::Misplaced };
    assert_eq!(open(&b, &a).unwrap_err(), misplaced(CopyId::A));
    assert_eq!(open(&a, &a).unwrap_err(), misplaced(CopyId::B));

    let mut other = replica(1);
    other.node = NodeId(99);
    assert_eq!(open(&a, &encode(&other, CopyId::B, 9)).unwrap_err(), OpenError::Mixed);
    assert_eq!(open(&a, &encode(&replica(5), CopyId::B, 3)).unwrap_err(), OpenError::Mixed);
    assert_eq!(open(&a, &encode(&replica(1), CopyId::B, 3)).unwrap_err(), OpenError::Mixed);
    assert_eq!(open(&a, &encode(&replica(0), CopyId::B, 4)).unwrap_err(), OpenError::Mixed);

    let mut later = b.clone();
    later[8] = 3;
    super::fuzzing::reseal(&mut later);
    let refused = OpenError::Refused { copy: CopyId::B, fault: Fault::Version(3) };
    assert_eq!(open(&a, &later).unwrap_err(), refused);

    let last = encode(&replica(1), CopyId::B, u64::MAX);
    assert!(matches!(open(&a, &last), Err(OpenError::Refused { copy: CopyId::B, .. })));
    assert_eq!(
        open(&[0; 100], &[]).unwrap_err(),
        OpenError::NoGoodCopy { a: Fault::Unreadable, b: Fault::Unreadable }
    );
}

/// F35, F36, F41, D4, D6: what is known from elsewhere is compared.
#[test]
fn expectations_are_enforced() {
    let (_, medium) = created(replica(4));
    let good = Expectations {
        metadata_bytes: medium.len(),
        data_bytes: Some(64 << 20),
        cluster: Some(ClusterId(0xC1)),
        volume: Some(VolumeId(0x70)),
        node: Some(NODE),
        attach_counter: Some(AttachCounter(5)),
        instance: replica(4).instance,
    };
    assert!(open_with(&medium, &good).is_ok());
    type Spoil = (&'static str, fn(&mut Expectations));
    let spoils: [Spoil; 7] = [
        ("truncated", |e| e.metadata_bytes -= 1),
        ("the data file has 67108863 bytes", |e| e.data_bytes = Some((64 << 20) - 1)),
        ("another cluster: c1 instead of c2", |e| e.cluster = Some(ClusterId(0xC2))),
        ("another volume: 70 instead of 71", |e| e.volume = Some(VolumeId(0x71))),
        ("another node", |e| e.node = Some(NodeId(1))),
        ("older than this node remembers (attach counter 5, remembered 6)", |e| {
            e.attach_counter = Some(AttachCounter(6));
        }),
        ("another daemon has taken this disk", |e| e.instance = Some(InstanceId(1))),
    ];
    for (text, spoil) in spoils {
        let mut bad = good;
        spoil(&mut bad);
        let error = open_with(&medium, &bad).expect_err(text).to_string();
        assert!(error.contains(text), "{error:?} says nothing of {text:?}");
    }
}

/// D5: what contradicts itself is not opened, even behind a right checksum.
#[test]
fn d5_contradictions_are_refused() {
    let good = encode(&replica(2), CopyId::A, 7);
    type Spoil = (&'static str, usize, &'static [u8]);
    let spoils: [Spoil; 18] = [
        ("feature", 64, &[1]),
        ("division", 72, &[1]),
        ("division", 80, &[3]),
        ("reserved", 92, &[1]),
        ("regions", 96, &[0, 0, 0]),
        ("regions", 104, &[0, 0, 1]),
        ("regions", 120, &[2]),
        ("has not begun", 272, &[0xFF]),
        ("half a term", 280, &[0; 8]),
        ("fresh", 296, &[0x17]),
        ("not consistent", 296, &[0x14]),
        ("flags", 296, &[0x16, 0x04]),
        ("power was lost", 296, &[0xD6, 0x00]),
        ("not reached", 408, &[4]),
        ("too long", 300, &[65]),
        ("half a generation", 320, &[0; 16]),
        ("own peer", 352, &[0x0D, 0x0D, 0x0C, 0x0C, 0x0B, 0x0B, 0x0A, 0x0A]),
        ("same peer", 352, &[0x52]),
    ];
    let more: [Spoil; 9] = [
        ("without an id", 352, &[0]),
        ("in sync that is behind", 400, &[2]),
        ("half a window", 360, &[0; 16]),
        ("a peer has flags", 400, &[4]),
        ("reserved bytes of a peer", 404, &[1]),
        ("without a dirty bitmap", 480, &[1]),
        ("not a chain", 1032, &[4]),
        ("no id", 1056, &[0; 32]),
        ("reserved", 1088, &[1]),
    ];
    for (text, at, bytes) in spoils.into_iter().chain(more) {
        let mut bad = good;
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        super::fuzzing::reseal(&mut bad);
        match decode(&bad, CopyId::A, None) {
            Err(Fault::Contradiction(found)) => assert!(found.contains(text), "{at}: {found:?} for {text:?}"),
            other => panic!("{text} at {at}: {other:?}"),
        }
    }
}

#[test]
#[should_panic(expected = "attach counter never falls (D6)")]
fn d6_the_attach_counter_cannot_fall() {
    let (mut pair, _) = created(replica(3));
    let mut lower = replica(3);
    lower.attach_counter = AttachCounter(3);
    lower.clean_shutdown = None;
    let _ = pair.update(lower);
}

#[test]
fn a_clean_shutdown_ends_with_the_next_attach() {
    let mut superblock = replica(3);
    assert!(superblock.was_shut_down_cleanly());
    superblock.attach_counter = AttachCounter(superblock.attach_counter.0 + 1);
    assert!(!superblock.was_shut_down_cleanly());
    assert_eq!(superblock.peer_index(NodeId(0x52)), PeerIndex::new(1));
    assert_eq!(superblock.peer_index(NODE), None);
}

fn any_id() -> impl Strategy<Value = u128> {
    prop_oneof![1..=4u128, 1..=u128::MAX]
}

fn any_superblock() -> impl Strategy<Value = Superblock> {
    let ids = (
        proptest::option::of(any_id()),
        proptest::option::of(any_id()),
        proptest::option::of(any_id()),
        proptest::option::of(any_id()),
        proptest::option::of(any_id()),
    );
    let numbers =
        (0..HISTORY_CAPACITY as u64 + 2, 0..MAX_PEERS, 1..COUNTER_END, 0..COUNTER_END, 0..COUNTER_END);
    (ids, numbers, any::<[bool; 8]>()).prop_map(|(ids, (age, peers, counter, clock, term), bits)| {
        let mut superblock = replica(age.saturating_sub(1));
        superblock.cluster = ids.0.map(ClusterId);
        superblock.volume = ids.1.map(VolumeId);
        superblock.boot = ids.2.map(BootId);
        superblock.instance = ids.3.map(InstanceId);
        superblock.layout = layout(peers);
        superblock.attach_counter = AttachCounter(counter);
        superblock.counted_at_boot_nanos = clock;
        superblock.clean_shutdown = bits[0].then_some(AttachCounter(counter));
        superblock.highest_term = (term > 0).then_some(Term { number: term, node: NODE });
        superblock.peers = std::array::from_fn(|index| {
            (index < peers).then(|| PeerRecord {
                node: NodeId(index as u64 + 1),
                standing: if bits[1] {
                    Standing::Behind(Window { base: generation(1).id, offered: generation(2).id })
                } else if bits[2] {
                    Standing::InSync
                } else {
                    Standing::Never
                },
                outdated_confirmed: bits[2],
                attach_counter_seen: AttachCounter(term),
                attach_counter_shown: AttachCounter(counter / 2),
            })
        });
        if age == 0 {
            superblock.history =
                History::from_parts(None, Vec::new(), ids.4.map(|id| GenerationId(id | 1))).unwrap();
        }
        superblock.flags = Flags {
            fresh: bits[3] && age == 0,
            consistent: bits[4],
            was_up_to_date: bits[4] && bits[5],
            crashed_primary: bits[6],
            entitled: bits[1],
        };
        superblock.evidence = Evidence {
            power: [Power::SameRun, Power::SameBoot, Power::Lost]
                [usize::from(bits[2]) + usize::from(bits[6])],
            settled: bits[7],
            replies: if bits[3] { Replies::Ahead } else { Replies::Together },
        };
        superblock
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read(superblock in any_superblock(), sequence in 1..COUNTER_END, b: bool) {
        let copy = if b { CopyId::B } else { CopyId::A };
        let bytes = encode(&superblock, copy, sequence);
        prop_assert_eq!(decode(&bytes, copy, Some(NODE)), Ok((superblock.clone(), sequence)));
        prop_assert_eq!(decode(&bytes, copy.other(), None), Err(Fault::Misplaced));
        prop_assert_eq!(decode(&bytes, copy, Some(NodeId(1))), Err(Fault::Foreign(NODE)));
    }
}
