//! Measures when it is time to, and keeps the counts that outlive the agent. The only part of metrics that writes a file.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    life::{Exits, Life},
    now,
    sensors::{Places, Sensors},
};
use crate::{boot_id::boot_id, cause::Chain, facts::Facts, state::StateFolder};

/// Without a budget there is nothing to do until the service says otherwise.
const NOTHING_TO_DO: Duration = Duration::from_secs(60 * 60);
/// Ends of applications are written down this often at most: flash wears.
const WRITE_EVERY: Duration = Duration::from_secs(60 * 60);

/// Measures one device until it is stopped.
#[derive(Debug)]
pub struct MetricsKeeper {
    facts: Arc<Facts>,
    state: StateFolder,
    sensors: Sensors,
    life: Life,
    written: (Life, Instant),
    exits: Exits,
}

impl MetricsKeeper {
    /// Counts this start of the agent, and has the device show that it measures.
    pub fn start(kept: Life, places: Places, state: StateFolder, facts: Arc<Facts>) -> Self {
        let life = kept.begun(&boot_id());
        keep(&state, &life);
        facts.metrics.begin();
        let sensors = Sensors::new(places, now());
        let written = (life.clone(), Instant::now());
        Self { facts, state, sensors, life, written, exits: Exits::default() }
    }

    /// Measures until `stop`, which is an end in order.
    pub async fn run(mut self, stop: CancellationToken) {
        let facts = self.facts.clone();
        let measure = async {
            loop {
                let next = facts.metrics.next_sample();
                let wait = next.map_or(NOTHING_TO_DO, |next| next.saturating_sub(now()));
                tokio::select! {
                    () = sleep(wait) => {}
                    () = facts.metrics.paced.notified() => {}
                }
                if facts.metrics.next_sample().is_some_and(|at| at <= now()) {
                    self.measure();
                }
            }
        };
        stop.run_until_cancelled(measure).await;
        keep(&self.state, &self.life.ended());
    }

    fn measure(&mut self) {
        let ends = self.exits.since(&self.facts.applications.borrow());
        self.life.exited(ends);
        let readings = self.sensors.measure(now());
        self.facts.metrics.sampled(self.life.counted(readings));
        let (written, at) = &self.written;
        if *written != self.life && at.elapsed() >= WRITE_EVERY {
            keep(&self.state, &self.life);
            self.written = (self.life.clone(), Instant::now());
        }
    }
}

fn keep(state: &StateFolder, life: &Life) {
    if let Err(error) = state.keep_life(life) {
        tracing::warn!(error = %Chain(&error), "what is counted from start to start was not kept");
    }
}
