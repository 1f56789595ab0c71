//! The fields of a report: what the sender's copy is.
//!
//! ```text
//!   0  u32  number of the report, from 1   24  8 x u8  copy, role, power, replies,
//!   4  u32  bytes of a bitmap block                    unsettled, wish, standing, dirty
//!   8  u64  node                           32  u64   attach counter
//!  16  u64  size                           40  term  highest term, 0: none
//!  56  u64  dirty blocks                   88  u128  base of the window
//!  64  u64  attach counter seen           104  u128  last one offered
//!  72  u128 toward, 0: none               120  u64   bound to this node, 0: to none
//!                                         128  u8    bond; 7 zero bytes
//!                                         136  generations, 32 bytes each, newest first
//! ```

use super::{
    error::FrameError,
    fields::{Reader, Writer, numbered},
    kind::Kind,
};
use crate::{
    generation::{
        history::{History, Window},
        record::{Dirty, PeerRecord, Standing},
        view::{Bond, Copy, NodeView, Power, Replies, Role, Unsettled, Wish},
    },
    ids::{GenerationId, NodeId},
};

/// Bytes of fields in a report without generations.
pub(super) const REPORT_BYTES: usize = 136;

/// [`Standing`] without its window.
#[derive(Clone, Copy)]
enum StandingNumber {
    Never,
    InSync,
    Behind,
}

/// [`Bond`] without its node.
#[derive(Clone, Copy)]
enum BondNumber {
    Free,
    Target,
    InSync,
}

/// [`Dirty`] without its count.
#[derive(Clone, Copy)]
enum DirtyNumber {
    Clean,
    Blocks,
    Unreadable,
}

numbered!(Copy: [Self::Diskless] = 1, [Self::Fresh] = 2, [Self::Inconsistent] = 3, [Self::Good] = 4);
numbered!(Role:
    [Self::Secondary] = 1, [Self::CrashedPrimary] = 2, [Self::SuspendedPrimary] = 3, [Self::ServingPrimary] = 4);
numbered!(Power: [Self::SameRun] = 1, [Self::SameBoot] = 2, [Self::Lost] = 3);
numbered!(Replies: [Self::Ahead] = 1, [Self::Together] = 2);
numbered!(Unsettled: [Self::Nothing] = 1, [Self::Listed] = 2, [Self::Unreadable] = 3);
numbered!(Wish: [Self::Nothing] = 1, [Self::Discard] = 2);
numbered!(StandingNumber: [Self::Never] = 1, [Self::InSync] = 2, [Self::Behind] = 3);
numbered!(BondNumber: [Self::Free] = 1, [Self::Target] = 2, [Self::InSync] = 3);
numbered!(DirtyNumber: [Self::Clean] = 1, [Self::Blocks] = 2, [Self::Unreadable] = 3);

pub(super) fn write(number: u32, view: &NodeView, out: &mut Writer<'_>) {
    let (standing, window) = match view.record.standing {
        Standing::Never => (StandingNumber::Never, None),
        Standing::InSync => (StandingNumber::InSync, None),
        Standing::Behind(window) => (StandingNumber::Behind, Some(window)),
    };
    let (dirty, blocks) = match view.record.dirty {
        Dirty::Clean => (DirtyNumber::Clean, 0),
        Dirty::Blocks(blocks) => (DirtyNumber::Blocks, blocks),
        Dirty::Unreadable => (DirtyNumber::Unreadable, 0),
    };
    out.count_from_one(number);
    out.u32(view.block_bytes);
    out.node(view.node);
    out.u64(view.size_bytes);
    out.numbered(view.copy);
    out.numbered(view.role);
    out.numbered(view.power);
    out.numbered(view.replies);
    out.numbered(view.unsettled);
    out.numbered(view.wish);
    out.numbered(standing);
    out.numbered(dirty);
    out.u64(view.attach.0);
    out.optional_term(view.highest_term);
    out.u64(blocks);
    out.u64(view.record.seen.0);
    out.optional_id(view.history.toward().map(|id| id.0));
    out.optional_id(window.map(|window| window.base.0));
    out.optional_id(window.map(|window| window.offered.0));
    let (bond, bound_to) = match view.bond {
        Bond::Free => (BondNumber::Free, 0),
        Bond::Target(node) => (BondNumber::Target, node.0),
        Bond::InSync(node) => (BondNumber::InSync, node.0),
    };
    out.u64(bound_to);
    out.numbered(bond);
    out.zeroes(7);
    for generation in view.history.generations() {
        out.generation(generation);
    }
}

pub(super) fn read(mut fields: Reader<'_>) -> Result<(u32, Box<NodeView>), FrameError> {
    let number = fields.count_from_one("the number of the report")?;
    let block_bytes = fields.u32();
    let node = fields.node("the node")?;
    let size_bytes = fields.u64();
    let copy = fields.numbered("copy")?;
    let role = fields.numbered("role")?;
    let power = fields.numbered("power")?;
    let replies = fields.numbered("replies")?;
    let unsettled = fields.numbered("unsettled")?;
    let wish = fields.numbered("wish")?;
    let standing = fields.numbered("standing")?;
    let dirty = fields.numbered("dirty")?;
    let attach = fields.attach_counter()?;
    let highest_term = fields.optional_term()?;
    let dirty = match (dirty, fields.u64()) {
        (DirtyNumber::Clean, 0) => Dirty::Clean,
        (DirtyNumber::Unreadable, 0) => Dirty::Unreadable,
        (DirtyNumber::Blocks, 0) => return Err(fields.value_error("the number of dirty blocks", 0)),
        (DirtyNumber::Blocks, blocks) => Dirty::Blocks(blocks),
        (DirtyNumber::Clean | DirtyNumber::Unreadable, _) => {
            return Err(fields.unused_error("the number of dirty blocks"));
        }
    };
    let seen = fields.attach_counter()?;
    let toward = fields.optional_id().map(GenerationId);
    let standing = read_standing(standing, &mut fields)?;
    let bond = read_bond(&mut fields)?;
    let generations = fields.list(32, Reader::generation)?;
    let history = history(Kind::Report, generations, toward)?;
    let record = PeerRecord { standing, dirty, seen };
    let view = NodeView {
        node,
        size_bytes,
        block_bytes,
        copy,
        history,
        role,
        power,
        replies,
        unsettled,
        attach,
        highest_term,
        wish,
        record,
        bond,
    };
    Ok((number, Box::new(view)))
}

fn read_bond(fields: &mut Reader<'_>) -> Result<Bond, FrameError> {
    let node = fields.u64();
    let number = fields.numbered("the bond")?;
    fields.zeroes::<7>("what follows the bond")?;
    match (number, node) {
        (BondNumber::Free, 0) => Ok(Bond::Free),
        (BondNumber::Free, _) => Err(fields.unused_error("the node of a bond")),
        (BondNumber::Target | BondNumber::InSync, 0) => Err(fields.value_error("the node of a bond", 0)),
        (BondNumber::Target, node) => Ok(Bond::Target(NodeId(node))),
        (BondNumber::InSync, node) => Ok(Bond::InSync(NodeId(node))),
    }
}

fn read_standing(number: StandingNumber, fields: &mut Reader<'_>) -> Result<Standing, FrameError> {
    match number {
        StandingNumber::Behind => Ok(Standing::Behind(Window {
            base: GenerationId(fields.id("the base of the window")?),
            offered: GenerationId(fields.id("the generation offered last")?),
        })),
        StandingNumber::Never | StandingNumber::InSync => {
            fields.zeroes::<32>("the window of a peer that is not behind")?;
            Ok(match number {
                StandingNumber::Never => Standing::Never,
                StandingNumber::InSync | StandingNumber::Behind => Standing::InSync,
            })
        }
    }
}

/// A history from its generations, newest first.
fn history(
    kind: Kind,
    mut generations: Vec<crate::ids::Generation>,
    toward: Option<GenerationId>,
) -> Result<History, FrameError> {
    let head = (!generations.is_empty()).then(|| generations.remove(0));
    History::from_parts(head, generations, toward).map_err(|error| FrameError::History { kind, error })
}
