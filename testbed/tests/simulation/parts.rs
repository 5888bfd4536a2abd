//! Parts of a task, each polled only when it was woken itself. A device is one task that waits for many things; without this, every
//! byte that arrives would ask all of them whether anything has happened.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A part of a task.
pub(crate) struct Part<F> {
    future: Pin<Box<F>>,
    call: Arc<Call>,
    waker: Waker,
}

struct Call {
    is_due: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_due.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Part<F> {
    /// Makes a part of what is to be awaited beside other parts.
    pub(crate) fn of(future: F) -> Self {
        let call = Arc::new(Call { is_due: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: Waker::from(call.clone()), call }
    }
}

impl<F: Future> Future for Part<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.call.task.register(context.waker());
        if !self.call.is_due.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let Self { future, waker, .. } = &mut *self;
        future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::poll_fn,
        rc::Rc,
        task::{Context, Poll, Waker},
    };

    use super::*;

    #[test]
    fn only_the_part_that_was_woken_is_polled() {
        let polls: [Rc<Cell<u32>>; 2] = Default::default();
        let wakers: [Rc<Cell<Option<Waker>>>; 2] = Default::default();
        let [mut one, mut two] = [0, 1].map(|part: usize| {
            let (polls, wakers) = (polls[part].clone(), wakers[part].clone());
            Part::of(poll_fn(move |context: &mut Context<'_>| {
                polls.set(polls.get() + 1);
                wakers.set(Some(context.waker().clone()));
                if polls.get() < 3 { Poll::Pending } else { Poll::Ready(()) }
            }))
        });
        let mut context = Context::from_waker(Waker::noop());
        for woken in [None, Some(1), None, Some(1)] {
            if let Some(waker) = woken.and_then(|part: usize| wakers[part].take()) {
                waker.wake();
            }
            assert!(Pin::new(&mut one).poll(&mut context).is_pending());
            let is_over = Pin::new(&mut two).poll(&mut context).is_ready();
            assert_eq!(is_over, polls[1].get() == 3);
        }
        assert_eq!(polls.map(|polls| polls.get()), [1, 3]);
    }
}
