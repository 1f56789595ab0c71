//! Which events may meet a node in which state: the measure of coverage.
//!
//! A pair is legal if the standing and the session go together, and each of them takes the kind of event. What is seen
//! and not legal here breaks a run: either the engine has got where it must not, or this table is wrong. The table
//! errs on the side of the engine; what it allows and nobody sees is listed at the end of a long run.

use evenkeel_core::volume::codec::Kind as Frame;

use crate::coverage::{Kind, Session, Standing};

const ABSENT: u8 = 1 << Session::Absent as u8;
const MEETING: u8 = 1 << Session::Meeting as u8;
const APART: u8 = 1 << Session::Apart as u8;
const SPLIT: u8 = 1 << Session::Split as u8;
const ESTABLISHED: u8 = 1 << Session::Established as u8;
const SOURCE: u8 = 1 << Session::Source as u8;
const TARGET: u8 = 1 << Session::Target as u8;
const VERIFY: u8 = 1 << Session::Verify as u8;
const ALL: u8 = u8::MAX;
const LINKED: u8 = !ABSENT;
const TALKING: u8 = MEETING | APART | SPLIT;
const LEADING: u8 = ESTABLISHED | SOURCE | VERIFY;
const FOLLOWING: u8 = ESTABLISHED | TARGET;

/// Whether an event of this kind may meet a node in this state.
pub(crate) fn is_legal(standing: Standing, session: Session, kind: Kind) -> bool {
    let session = 1 << session as u8;
    goes_with(standing) & session != 0 && comes_in(kind) & session != 0 && takes(standing, kind)
}

/// The sessions that a node of this standing can have.
fn goes_with(standing: Standing) -> u8 {
    match standing {
        Standing::Diskless => ABSENT,
        // Links are closed, but for that to the node that served while this one was primary.
        Standing::Failed => ABSENT | TALKING | ESTABLISHED,
        Standing::Inconsistent | Standing::Outdated => !VERIFY,
        // Two of three secondaries are compared, and the third one is gone.
        Standing::Consistent => ALL,
        Standing::UpToDate | Standing::Serving | Standing::Renewing => ALL,
        Standing::Bereft => !TARGET,
        Standing::Deposed | Standing::NoData => ABSENT | TALKING | ESTABLISHED,
        Standing::Remote => ESTABLISHED,
        Standing::Unfit => ABSENT | TALKING | TARGET,
    }
}

/// The sessions in which an event of this kind comes.
fn comes_in(kind: Kind) -> u8 {
    match kind {
        Kind::Frame(frame) => match frame {
            Frame::Hello => ABSENT,
            // A target that decides anew does so without a word to anybody but the peer.
            Frame::Begin => MEETING | TARGET,
            Frame::Ready => MEETING,
            Frame::Report | Frame::Agree => TALKING | TARGET | ESTABLISHED,
            // The link to a stranger stays up, and is silent but for these.
            Frame::Ask | Frame::Answer | Frame::Leave | Frame::Ping | Frame::Pong => ALL,
            Frame::Mark => LINKED,
            Frame::Offer | Frame::Compare | Frame::Fetch | Frame::Fetched => ESTABLISHED,
            Frame::Yielded | Frame::Grow => ESTABLISHED,
            // From a host that failed too, as it crosses the loss of its primary.
            Frame::Yield => ESTABLISHED | APART,
            Frame::Grown => ESTABLISHED | VERIFY,
            // It may cross the beginning of a resync.
            Frame::Outdate => ESTABLISHED | TARGET | SOURCE,
            Frame::Outdated => ESTABLISHED | TARGET | LEADING,
            Frame::Adopted => ESTABLISHED | APART | VERIFY,
            Frame::Host => ESTABLISHED | APART,
            Frame::Discard | Frame::DiscardAnswer => APART | SPLIT,
            Frame::Invalidate | Frame::InvalidateAnswer => LINKED,
            Frame::Start | Frame::Everywhere => FOLLOWING,
            Frame::Write | Frame::Zero | Frame::FlushTo => FOLLOWING,
            Frame::Received | Frame::Applied | Frame::StableTo => LEADING,
            // The disk may fail between `Ready` and its arrival.
            Frame::Failed => LEADING | MEETING,
            Frame::Runs | Frame::RunsEnd | Frame::Part | Frame::Counted => TARGET,
            Frame::Pull | Frame::Settled | Frame::Finish | Frame::Finished => SOURCE,
            // The verify may have ended early.
            Frame::Compared => VERIFY | ESTABLISHED,
        },
        Kind::Read
        | Kind::Write
        | Kind::Zero
        | Kind::Flush
        | Kind::ClientGone
        | Kind::ReadDone
        | Kind::ReadFailed
        | Kind::DiskDone
        | Kind::DiskFailed
        | Kind::LinkUp
        | Kind::LinkDown
        | Kind::Wake
        | Kind::Primary
        | Kind::Secondary
        | Kind::Disconnect
        | Kind::Connect
        | Kind::Invalidate
        | Kind::Resolve
        | Kind::SteerResync
        | Kind::Verify
        | Kind::Resize
        | Kind::Shutdown => ALL,
    }
}

/// Whether a node of this standing is given an event of this kind.
fn takes(standing: Standing, kind: Kind) -> bool {
    let leads = is_primary(standing);
    match kind {
        // Clients go to a primary, and learn only by an answer that it is one no more; an operator demotes one.
        Kind::Read | Kind::Write | Kind::Zero | Kind::Flush | Kind::ClientGone => {
            leads || standing != Standing::Diskless
        }
        // An operator may be late: the role has ended.
        Kind::Secondary => leads || standing == Standing::Failed,
        Kind::Invalidate | Kind::Resolve => !leads,
        Kind::ReadDone | Kind::ReadFailed => true,
        Kind::Frame(frame) => match frame {
            Frame::Write | Frame::Zero | Frame::FlushTo | Frame::Everywhere => !leads,
            // Also a primary becomes target: of one with a higher term, before it has left the role.
            Frame::Start => true,
            Frame::Runs | Frame::RunsEnd | Frame::Part | Frame::Counted => {
                !leads || matches!(standing, Standing::Unfit | Standing::Serving)
            }
            Frame::Offer | Frame::Host | Frame::Outdate => !leads,
            Frame::Pull | Frame::Settled | Frame::Finish | Frame::Finished => true,
            // They may cross this node's own promotion.
            Frame::Compare | Frame::Fetch => !leads || standing == Standing::Renewing,
            Frame::Hello
            | Frame::Report
            | Frame::Agree
            | Frame::Begin
            | Frame::Ready
            | Frame::Adopted
            | Frame::Grown
            | Frame::Ask
            | Frame::Answer
            | Frame::Mark
            | Frame::Outdated
            // It may cross this node's own promotion.
            | Frame::Yield
            | Frame::Yielded
            | Frame::Grow
            | Frame::Leave
            | Frame::Ping
            | Frame::Pong
            | Frame::Discard
            | Frame::DiscardAnswer
            | Frame::Invalidate
            | Frame::InvalidateAnswer
            | Frame::Received
            | Frame::Applied
            | Frame::StableTo
            | Frame::Failed
            | Frame::Fetched
            | Frame::Compared => true,
        },
        Kind::DiskDone
        | Kind::DiskFailed
        | Kind::LinkUp
        | Kind::LinkDown
        | Kind::Wake
        | Kind::Primary
        | Kind::Disconnect
        | Kind::Connect
        | Kind::SteerResync
        | Kind::Verify
        | Kind::Resize
        | Kind::Shutdown => true,
    }
}

fn is_primary(standing: Standing) -> bool {
    match standing {
        Standing::Serving
        | Standing::Renewing
        | Standing::Bereft
        | Standing::Deposed
        | Standing::Remote
        | Standing::NoData
        | Standing::Unfit => true,
        Standing::Diskless
        | Standing::Failed
        | Standing::Inconsistent
        | Standing::Outdated
        | Standing::Consistent
        | Standing::UpToDate => false,
    }
}
