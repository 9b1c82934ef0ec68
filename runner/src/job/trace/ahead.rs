//! A tracer that was made ready before its command is there.
//!
//! Whatever it does meanwhile, its command waits for it no longer than until
//! a deadline; it ends with this value.

use std::future::Future;

use ntrace_tracers::{Armed, Running, StartError};
use tokio::time::{Instant, timeout_at};

/// What was made ready.
#[derive(Default)]
pub(in crate::job) enum Ahead {
    /// Nothing: the tracer is started when it is needed.
    #[default]
    Nothing,
    /// This tracer.
    Ready(Box<dyn Armed>),
    /// It was tried, and will do no better when it is tried again.
    Failed(StartError),
}

impl Ahead {
    /// Waits for a tracer to make itself ready.
    pub(super) async fn of(
        arming: impl Future<Output = Result<Option<Box<dyn Armed>>, StartError>>,
        deadline: Instant,
    ) -> Self {
        match timeout_at(deadline, arming).await {
            Ok(Ok(Some(armed))) => Self::Ready(armed),
            Ok(Ok(None)) => Self::Nothing,
            Ok(Err(error)) => Self::Failed(error),
            Err(_) => Self::Failed(late()),
        }
    }

    /// Begins to trace; by what is to be done now where nothing was made
    /// ready.
    pub(super) async fn begin(
        self,
        start: impl Future<Output = Begun>,
        deadline: Instant,
    ) -> Begun {
        let beginning = async {
            match self {
                Self::Failed(error) => Err(error),
                Self::Ready(armed) => armed.begin(deadline).await,
                Self::Nothing => start.await,
            }
        };
        match timeout_at(deadline, beginning).await {
            Ok(begun) => begun,
            Err(_) => Err(late()),
        }
    }
}

/// A tracer that has begun, or why it has not.
type Begun = Result<Box<dyn Running>, StartError>;

fn late() -> StartError {
    StartError::Late { what: "the tracer", said: String::new() }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use futures::FutureExt as _;
    use futures::future::BoxFuture;

    use super::*;

    /// What an armed tracer does when it is to begin.
    enum Then {
        Dies,
        Hangs,
    }

    /// A tracer that is alive as long as its token is held.
    struct Fake(Then, Arc<()>);

    impl Armed for Fake {
        fn begin(self: Box<Self>, _: Instant) -> BoxFuture<'static, Begun> {
            async move {
                let _alive = self.1;
                match self.0 {
                    Then::Dies => Err(refused("it died")),
                    Then::Hangs => pending().await,
                }
            }
            .boxed()
        }
    }

    fn refused(why: &str) -> StartError {
        StartError::Refused(why.to_owned())
    }

    /// What is there is taken at once; what is not is late.
    fn at_once() -> Instant {
        Instant::now()
    }

    async fn fake(then: Then) -> (Ahead, Arc<()>) {
        let alive = Arc::new(());
        let fake = Fake(then, alive.clone());
        let armed: Option<Box<dyn Armed>> = Some(Box::new(fake));
        (Ahead::of(ready(Ok(armed)), at_once()).await, alive)
    }

    async fn why(ahead: Ahead, start: impl Future<Output = Begun>) -> String {
        match ahead.begin(start, at_once()).await {
            Ok(_) => panic!("nothing here can begin"),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_made_ready_is_not_tried_again() {
        let ahead = Ahead::of(ready(Err(refused("no right"))), at_once()).await;
        assert_eq!(why(ahead, pending()).await, "no right");
        let ahead = Ahead::of(pending(), at_once()).await;
        assert!(why(ahead, pending()).await.contains("not ready in time"));
    }

    #[tokio::test]
    async fn one_that_dies_or_hangs_while_it_is_ready_says_so() {
        let (ahead, alive) = fake(Then::Dies).await;
        assert_eq!(why(ahead, pending()).await, "it died");
        assert_eq!(Arc::strong_count(&alive), 1);
        let (ahead, alive) = fake(Then::Hangs).await;
        assert!(why(ahead, pending()).await.contains("not ready in time"));
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[tokio::test]
    async fn one_that_is_not_begun_goes_with_its_run() {
        let (ahead, alive) = fake(Then::Hangs).await;
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(ahead);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[tokio::test]
    async fn what_needs_no_readiness_is_started_when_its_turn_comes() {
        let ahead = Ahead::of(ready(Ok(None)), at_once()).await;
        let start = ready(Err(refused("it was started")));
        assert_eq!(why(ahead, start).await, "it was started");
    }
}
