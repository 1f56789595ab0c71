//! The body of a response. What takes long sends a line end now and then, so that the client knows that the daemon
//! lives: JSON does not mind them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Between two signs of life; the client gives up after three times as long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// What a request comes to in the end.
pub(super) type Work = Pin<Box<dyn Future<Output = Bytes> + Send>>;

/// See the module's head.
pub(super) enum AdminBody {
    /// It is there.
    Whole(Option<Bytes>),
    /// It is being worked on.
    Working { work: Work, signs: Interval },
}

impl AdminBody {
    pub(super) fn working(work: Work) -> Self {
        let mut signs = interval(SIGN_OF_LIFE);
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Working { work, signs }
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        match this {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Working { work, signs } => {
                if let Poll::Ready(bytes) = work.as_mut().poll(context) {
                    *this = Self::Whole(None);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                match signs.poll_tick(context) {
                    Poll::Ready(_) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"\n"))))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Working { .. } => SizeHint::default(),
        }
    }
}
