//! How far a rollout is, as a whole and on each of its devices, and the words in which people ask for it. Never says how a state is
//! reached.

use crate::words::words;

words! {
    /// How far a rollout is.
    RolloutState {
        /// Made, not started: nothing happens on any device.
        Draft = "draft",
        /// Devices are offered the release.
        Running = "running",
        /// Nothing new is offered; devices under way go on.
        Paused = "paused",
        /// Its failure threshold was reached; no device is offered the release any more.
        Stopped = "stopped",
        /// An operator ended it; no device is offered the release any more.
        Aborted = "aborted",
        /// Every device came to an end.
        Finished = "finished",
    }
}

words! {
    /// How far a rollout is on one device.
    DeviceState {
        /// Its turn has not come.
        Queued = "queued",
        /// Its turn has come, but something is in the way: see [`WaitingFor`].
        Waiting = "waiting",
        /// It has taken the wish.
        Offered = "offered",
        /// It fetches metadata or components.
        Downloading = "downloading",
        /// It checks what it has written.
        Verifying = "verifying",
        /// It arms the other slot or switches applications.
        Installing = "installing",
        /// It runs the release on trial.
        Trial = "trial",
        /// It runs the release, confirmed.
        Succeeded = "succeeded",
        /// It refused the release or could not install it; what ran before runs on.
        Failed = "failed",
        /// It tried the release and returned to what ran before.
        RolledBack = "rolled_back",
        /// There was nothing to do on it.
        Skipped = "skipped",
        /// A newer rollout decides what it runs.
        Superseded = "superseded",
        /// The rollout ended before its turn.
        Cancelled = "cancelled",
    }
}

words! {
    /// What a device is waiting for.
    WaitingFor {
        /// The hours in which the rollout may act.
        Window = "window",
        /// Somebody's consent.
        Consent = "consent",
        /// The device's next contact.
        Asleep = "asleep",
        /// Another device's end: the rollout acts on so many at a time and no more.
        Quota = "quota",
        /// An operator's look at an identity that is held back.
        Quarantined = "quarantined",
        /// An operator's look at a device that keeps failing.
        Failures = "failures",
        /// The approval of the whole rollout by a second person.
        Approval = "approval",
        /// The moment before which the rollout offers nothing.
        Schedule = "schedule",
        /// The time before the next try after one that failed.
        Retry = "retry",
        /// The end of an earlier wave.
        Wave = "wave",
        /// Its turn: the rollout offers so much in an hour and no more.
        Rate = "rate",
    }
}

words! {
    /// What happens when too many devices failed, or too few of a wave succeeded.
    #[derive(Default)]
    OnFailure {
        /// The rollout ends.
        #[default]
        Stop = "stop",
        /// The rollout offers nothing new until somebody lets it go on; the failures until then no longer count.
        Pause = "pause",
        /// The rollout ends, and devices that succeeded are brought back to the release they ran before, by a rollout of that release.
        Return = "return",
    }
}

words! {
    /// Whose yes each device needs before it installs the release.
    #[derive(Default)]
    Consent {
        /// Nobody's.
        #[default]
        Automatic = "automatic",
        /// An operator's: each device waits until somebody consents for it.
        Operator = "operator",
        /// That of somebody at the device: it brings the release into its place, asks, and installs it after a yes.
        Device = "device",
    }
}

words! {
    /// What a person asks of a rollout, as the last part of the path says it.
    RolloutAction {
        /// Begin to offer the release.
        Start = "start",
        /// Offer nothing new for now.
        Pause = "pause",
        /// Go on after a pause; failures until now no longer count against the thresholds.
        Resume = "resume",
        /// End it; devices that are not beyond the point of return stay where they are.
        Abort = "abort",
        /// Admit no further devices; the rollout ends once those that it has have come to an end.
        Close = "close",
        /// Say yes to the whole rollout, as somebody else than who started it.
        Approve = "approve",
        /// Let devices at which somebody said no ask again now.
        AskAgain = "ask-again",
    }
}

impl DeviceState {
    /// Whether it never changes again.
    pub const fn is_end(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::RolledBack | Self::Skipped | Self::Superseded | Self::Cancelled => {
                true
            }
            Self::Queued
            | Self::Waiting
            | Self::Offered
            | Self::Downloading
            | Self::Verifying
            | Self::Installing
            | Self::Trial => false,
        }
    }

    /// Whether the device has the wish and works on it.
    pub const fn is_under_way(self) -> bool {
        !self.is_end() && !matches!(self, Self::Queued | Self::Waiting)
    }
}

impl RolloutState {
    /// Whether it never changes again.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Stopped | Self::Aborted | Self::Finished)
    }
}
