//! How a device stands: to the account that it belongs to, and to the schedule that it has promised. Never decides either.

use crate::words::words;

words! {
    /// Whether a device may take part.
    Standing {
        /// It takes part.
        Active = "active",
        /// An operator has suspended it: it cannot register.
        Suspended = "suspended",
        /// Its identity was seen in two places: it may register and report, and gets nothing.
        Quarantined = "quarantined",
        /// It was taken out of service for good; only a new enrolment that names it lets it come back.
        Decommissioned = "decommissioned",
    }
}

words! {
    /// How a device stands to the schedule that it has promised.
    Presence {
        /// It is registered over a connection that stands.
        Connected = "connected",
        /// It is not connected, as it has promised, and not yet due.
        Sleeping = "sleeping",
        /// It should be here.
        Late = "late",
        /// It should be here since so long that it will hardly come by itself: two lifetimes of its registration.
        Lost = "lost",
    }
}
