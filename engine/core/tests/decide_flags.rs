//! `decide` over values that no cluster reaches: hostile, damaged or contradictory views. It must stay total and
//! symmetric, and never take for a source what is not a complete copy.

use evenkeel_core::generation::course::{Course, course};
use evenkeel_core::generation::decide::{decide, must_suspend};
use evenkeel_core::generation::history::{History, Window};
use evenkeel_core::generation::record::{Dirty, PeerRecord, Standing};
use evenkeel_core::generation::verdict::{Clause, Extent, Names, Refusal, Side, Verdict, Which};
use evenkeel_core::generation::view::{Bond, Copy, NodeView, Power, Replies, Role, Unsettled, Wish};
use evenkeel_core::ids::{AttachCounter, Generation, GenerationId, NodeId, Term};
use std::collections::HashSet;

const ROLES: [Role; 4] =
    [Role::Secondary, Role::CrashedPrimary, Role::SuspendedPrimary, Role::ServingPrimary];
const POWERS: [Power; 3] = [Power::SameRun, Power::SameBoot, Power::Lost];
const DIRTY: [Dirty; 3] = [Dirty::Clean, Dirty::Blocks(1), Dirty::Unreadable];
const UNSETTLED: [Unsettled; 3] = [Unsettled::Nothing, Unsettled::Listed, Unsettled::Unreadable];
const NAMES: Names<'_> = Names { mine: "alpha", theirs: "beta" };

/// Generation 1 is the root, 2 and 3 branch from it, 9 is of another volume; `maker` wrote them all.
fn history(head: u128, toward: u128, maker: u64) -> History {
    let generation = |id| Generation { id: GenerationId(id), term: Term { number: 1, node: NodeId(maker) } };
    let ancestors = if head == 2 || head == 3 { vec![generation(1)] } else { Vec::new() };
    let toward = (toward != 0).then_some(GenerationId(toward));
    History::from_parts((head != 0).then(|| generation(head)), ancestors, toward).expect("well formed")
}

fn window(base: u128, offered: u128) -> Standing {
    Standing::Behind(Window { base: GenerationId(base), offered: GenerationId(offered) })
}

fn view(node: u64, copy: Copy, history: History) -> NodeView {
    NodeView {
        node: NodeId(node),
        size_bytes: 1 << 30,
        block_bytes: 4096,
        copy,
        history,
        role: Role::Secondary,
        power: Power::SameRun,
        replies: Replies::Together,
        unsettled: Unsettled::Nothing,
        attach: AttachCounter(5),
        highest_term: Some(Term { number: 1, node: NodeId(1) }),
        wish: Wish::Nothing,
        record: PeerRecord { standing: Standing::InSync, dirty: Dirty::Clean, seen: AttachCounter(5) },
        bond: Bond::Free,
    }
}

/// Every copy with every history, also those that contradict each other.
fn shapes(node: u64) -> Vec<NodeView> {
    let mut shapes = Vec::new();
    for head in [0, 1, 2, 3, 9] {
        for toward in [0, 1, 2, 9] {
            let copies: &[Copy] = match (head, toward) {
                (0 | 2, 0) => &[Copy::Diskless, Copy::Fresh, Copy::Inconsistent, Copy::Good],
                (_, 0) | (1, 2) => &[Copy::Inconsistent, Copy::Good],
                (_, _) => &[Copy::Inconsistent],
            };
            shapes.extend(copies.iter().map(|copy| view(node, *copy, history(head, toward, 1))));
        }
    }
    shapes
}

/// What holds for every pair.
fn check(a: &NodeView, b: &NodeView, kinds: &mut HashSet<Verdict>) {
    let verdict = decide(a, b);
    assert_eq!(verdict.mirror(), decide(b, a), "not symmetric: {a:?}\n{b:?}");
    assert_eq!(verdict.mirror().mirror(), verdict);
    match verdict {
        Verdict::NoSync => {
            for (own, other) in [(a, b), (b, a)] {
                assert_eq!(own.copy, Copy::Good);
                assert_eq!(own.history.head(), other.history.head());
                assert_eq!((own.record.dirty, own.unsettled), (Dirty::Clean, Unsettled::Nothing));
                assert_ne!((own.role, own.record.standing), (Role::CrashedPrimary, Standing::Never));
            }
        }
        Verdict::Resync { source, extent, clause } => {
            let (source, target) = if source == Side::Mine { (a, b) } else { (b, a) };
            assert_eq!(source.copy, Copy::Good, "{verdict:?} of {a:?}\n{b:?}");
            assert!(source.attach >= target.record.seen, "a source that was set back: {a:?}\n{b:?}");
            assert_ne!(target.copy, Copy::Diskless);
            if extent == Extent::Bitmap {
                let common = source.history.newest_common(&target.history).map(|generation| generation.id);
                let bases = [target.history.key(), common].into_iter().flatten();
                let covered = |base| source.record.standing.covers(&source.history, base);
                assert!(bases.into_iter().any(covered), "no bitmap goes back far enough: {a:?}\n{b:?}");
                assert_ne!(target.record.standing, Standing::Never);
                if clause == Clause::Discarded {
                    let covered = |base| target.record.standing.covers(&target.history, base);
                    assert!(
                        common.is_some_and(covered),
                        "the target's own writes would be missed: {a:?}\n{b:?}"
                    );
                }
            }
            let believable = target.copy == Copy::Good || target.history.toward().is_some();
            let whole = !believable || target.attach < source.record.seen;
            assert!(
                extent != Extent::Bitmap || !whole,
                "nothing in the target can be believed: {a:?}\n{b:?}"
            );
            let readable = [source, target].iter().all(|view| {
                view.record.dirty != Dirty::Unreadable && view.unsettled != Unsettled::Unreadable
            });
            assert!(extent != Extent::Bitmap || readable, "bitmaps that cannot be read: {a:?}\n{b:?}");
            assert!(
                !target.role.is_primary()
                    || target.copy != Copy::Good
                    || must_suspend(target, source)
                    || target.wish == Wish::Discard,
                "a primary would be overwritten: {a:?}\n{b:?}"
            );
        }
        Verdict::FreshPair { .. } => assert_eq!((a.copy, b.copy), (Copy::Fresh, Copy::Fresh)),
        Verdict::NoCopy(_) => assert!(a.copy == Copy::Diskless || b.copy == Copy::Diskless),
        Verdict::SplitBrain { suspends, .. } | Verdict::Unrelated { suspends } => {
            assert_eq!((a.copy, b.copy), (Copy::Good, Copy::Good));
            assert!(!a.role.is_primary() || !b.role.is_primary() || suspends != Which::Neither);
        }
        Verdict::Refused(_) => {}
    }
    if kinds.insert(verdict) {
        let swapped = Names { mine: NAMES.theirs, theirs: NAMES.mine };
        let sentence = verdict.explain(NAMES);
        assert!(sentence.contains("alpha") || sentence.contains("beta"), "{sentence}");
        assert!(sentence.contains('(') && sentence.ends_with('.'), "{sentence}");
        assert_eq!(sentence.len(), verdict.mirror().explain(swapped).len(), "{sentence}");
    }
}

#[test]
fn every_shape_with_every_standing_role_and_wish() {
    let mut kinds = HashSet::new();
    let mut pairs = 0_u64;
    let vary = |node: u64| {
        let mut views = Vec::new();
        for shape in shapes(node) {
            for standing in [Standing::Never, Standing::InSync, window(1, 1), window(1, 2), window(9, 9)] {
                for role in ROLES {
                    for (wish, set_back, term) in [
                        (Wish::Nothing, false, 1),
                        (Wish::Discard, false, 1),
                        (Wish::Nothing, true, 1),
                        (Wish::Discard, true, 2),
                        (Wish::Nothing, false, 2),
                    ] {
                        let mut view = NodeView { role, wish, ..shape.clone() };
                        view.record.standing = standing;
                        view.attach = AttachCounter(if set_back { 4 } else { 5 });
                        view.highest_term = Some(Term { number: term, node: NodeId(1) });
                        views.push(view);
                    }
                }
            }
        }
        views
    };
    let (ours, others) = (vary(1), vary(2));
    // Without optimisation a seventh of the pairs has to do, another seventh for each of ours.
    let stride = if cfg!(debug_assertions) { 7 } else { 1 };
    for (place, a) in ours.iter().enumerate() {
        for b in others.iter().skip(place % stride).step_by(stride) {
            check(a, b, &mut kinds);
            pairs += 1;
        }
    }
    println!("{pairs} pairs, {} different verdicts", kinds.len());
    assert!(kinds.len() > 40, "only {} different verdicts", kinds.len());
}

#[test]
fn every_flag_of_two_good_copies() {
    let mut kinds = HashSet::new();
    let mut pairs = 0_u64;
    let vary = |node: u64| {
        let mut views = Vec::new();
        for (head, maker) in [(1, 1), (1, 2), (1, 3), (2, 2), (3, 1)] {
            for role in ROLES {
                for power in POWERS {
                    for (dirty, unsettled) in DIRTY.into_iter().flat_map(|d| UNSETTLED.map(|u| (d, u))) {
                        for replies in [Replies::Ahead, Replies::Together] {
                            let base = view(node, Copy::Good, history(head, 0, maker));
                            let mut view = NodeView { role, power, replies, unsettled, ..base };
                            view.record.dirty = dirty;
                            views.push(view);
                        }
                    }
                }
            }
        }
        views
    };
    let (ours, others) = (vary(1), vary(2));
    for a in &ours {
        for b in &others {
            check(a, b, &mut kinds);
            pairs += 1;
        }
    }
    println!("{pairs} pairs, {} different verdicts", kinds.len());
}

#[test]
fn what_cannot_work_together_is_refused() {
    let a = view(1, Copy::Good, history(1, 0, 1));
    let b = view(2, Copy::Good, history(1, 0, 1));
    let refused = |b: &NodeView| match decide(&a, b) {
        Verdict::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&NodeView { node: NodeId(1), ..b.clone() }), Refusal::SameNode(NodeId(1)));
    let smaller = NodeView { size_bytes: 4096, ..b.clone() };
    assert_eq!(refused(&smaller), Refusal::Size { mine: 1 << 30, theirs: 4096 });
    let coarser = NodeView { block_bytes: 65536, ..b.clone() };
    assert_eq!(refused(&coarser), Refusal::BlockSize { mine: 4096, theirs: 65536 });
    let headless = NodeView { history: History::empty(), ..b.clone() };
    assert_eq!(refused(&headless), Refusal::Contradiction(Which::One(Side::Theirs)));
    let generation = |id| Generation { id: GenerationId(id), term: Term { number: 1, node: NodeId(1) } };
    let newer = NodeView {
        history: History::from_parts(Some(generation(2)), vec![generation(1)], None).expect("well formed"),
        ..a.clone()
    };
    let older = NodeView {
        history: History::from_parts(Some(generation(1)), vec![generation(2)], None).expect("well formed"),
        ..b
    };
    assert_eq!(decide(&newer, &older), Verdict::Refused(Refusal::Contradiction(Which::Both)));
    let other_maker = view(2, Copy::Good, history(1, 0, 2));
    assert_eq!(decide(&a, &other_maker), Verdict::Refused(Refusal::Contradiction(Which::Both)));
}

/// G10 in both directions.
#[test]
fn a_primary_yields_to_a_higher_term_only() {
    let with_term = |node, role, number| NodeView {
        role,
        highest_term: Some(Term { number, node: NodeId(node) }),
        ..view(node, Copy::Good, history(u128::from(node) + 1, 0, node))
    };
    let old = with_term(1, Role::ServingPrimary, 1);
    let new = with_term(2, Role::ServingPrimary, 2);
    assert!(must_suspend(&old, &new) && !must_suspend(&new, &old));
    let Verdict::SplitBrain { suspends, .. } = decide(&old, &new) else { panic!("no split brain") };
    assert_eq!(suspends, Which::One(Side::Mine));
    let secondary = NodeView { role: Role::Secondary, ..old.clone() };
    assert!(!must_suspend(&secondary, &new));
    let twin = NodeView { highest_term: old.highest_term, ..new };
    assert!(must_suspend(&old, &twin) && must_suspend(&twin, &old));
}

/// G4: equal heads are equal copies only if each side has kept bits for the other since, or nobody has written yet.
#[test]
fn g4_equal_heads_of_copies_that_kept_no_bits_for_each_other_are_compared_whole() {
    for (number, standings) in [
        (1, [Standing::Never, Standing::Never]),
        (2, [Standing::InSync, Standing::InSync]),
        (2, [Standing::Never, Standing::InSync]),
        (2, [Standing::InSync, Standing::Never]),
        (2, [Standing::Never, Standing::Never]),
    ] {
        let head = Generation { id: GenerationId(1), term: Term { number, node: NodeId(3) } };
        let history = History::from_parts(Some(head), Vec::new(), None).expect("well formed");
        let [a, b] = [(1, standings[0]), (2, standings[1])].map(|(node, standing)| {
            let mut view = view(node, Copy::Good, history.clone());
            view.record.standing = standing;
            view
        });
        let tracked = !standings.contains(&Standing::Never);
        match decide(&a, &b) {
            Verdict::NoSync => assert!(tracked || number == Term::FIRST, "{standings:?}"),
            Verdict::Resync { extent, .. } => {
                assert!(!tracked && matches!(extent, Extent::Full(_)), "{standings:?}: {extent:?}");
            }
            other => panic!("{standings:?}: {other:?}"),
        }
    }
}

/// Two that are in sync with the same primary are in sync with each other if they have the same head, both whole (C4).
#[test]
fn g9_fellows_have_the_same_head_and_the_same_primary() {
    let primary = NodeId(7);
    for (bonds, heads, copies, fellows) in [
        ([Bond::InSync(primary); 2], [1, 1], [Copy::Good; 2], true),
        ([Bond::InSync(primary); 2], [1, 2], [Copy::Good; 2], false),
        ([Bond::InSync(primary); 2], [1, 1], [Copy::Good, Copy::Inconsistent], false),
        ([Bond::InSync(primary), Bond::InSync(NodeId(8))], [1, 1], [Copy::Good; 2], false),
        ([Bond::InSync(primary), Bond::Free], [1, 1], [Copy::Good; 2], false),
        ([Bond::InSync(primary), Bond::Target(primary)], [1, 1], [Copy::Good; 2], false),
    ] {
        let [a, b] = [0, 1].map(|side| {
            let node = u64::try_from(side).expect("two") + 1;
            NodeView { bond: bonds[side], ..view(node, copies[side], history(heads[side], 0, 1)) }
        });
        let expected = if fellows { Course::Fellows } else { Course::Wait };
        for (mine, theirs) in [(&a, &b), (&b, &a)] {
            assert_eq!(course(Verdict::NoSync, mine, theirs), expected, "{bonds:?} {heads:?} {copies:?}");
        }
    }
}
