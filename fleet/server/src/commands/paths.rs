//! What a command may be about. Credentials, software, settings and jobs have doors of their own, with rules that a plain Write would go
//! around.

use protocol_lwm2m::object::{
    Operations, Path,
    definition::{definition, resource},
    ids,
};
use protocol_types::CommandKind;

/// A path that a command may not touch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAllowed {
    /// It is kept from commands.
    #[error("`{path}` is kept from commands: {why}")]
    Protected {
        /// The path.
        path: Path,
        /// Why.
        why: &'static str,
        /// What does it instead.
        instead: &'static str,
    },
    /// The operation does not fit the path.
    #[error("{0}")]
    DoesNotFit(String),
}

/// Objects 21 and 23 of the standard hold keys, as object 0 does.
const OSCORE: u16 = 21;
const COSE: u16 = 23;
/// Metrics of the agent.
const METRICS: u16 = 26_243;
/// `/3/0/5`
const FACTORY_RESET: Path = Path::resource(ids::DEVICE, 0, 5);

/// Whether a command of this kind may be about this path.
pub(crate) fn check(kind: CommandKind, path: &Path) -> Result<(), NotAllowed> {
    let ids = path.ids();
    let fits = match kind {
        CommandKind::Read | CommandKind::Observe => !ids.is_empty(),
        CommandKind::Write => ids.len() >= 3,
        CommandKind::Execute => ids.len() == 3,
        CommandKind::Job => false,
    };
    if !fits {
        let wanted = match kind {
            CommandKind::Execute => "a resource, as in `/3/0/4`",
            CommandKind::Write => "a resource or resource instance, as in `/1/0/2`",
            CommandKind::Read | CommandKind::Observe | CommandKind::Job => "at least an object, as in `/3`",
        };
        return Err(NotAllowed::DoesNotFit(format!("the path must name {wanted}")));
    }
    if let Some((why, instead)) = ids.first().and_then(|object| protected(kind, *object, path)) {
        return Err(NotAllowed::Protected { path: *path, why, instead });
    }
    let Some(object) = ids.first().and_then(|object| definition(*object)) else { return Ok(()) };
    let Some(known) = resource(path) else {
        return match ids {
            [_, _, id, ..] => Err(NotAllowed::DoesNotFit(format!("object {} has no resource {id}", object.id))),
            _ => Ok(()),
        };
    };
    let allowed = match kind {
        CommandKind::Read | CommandKind::Observe => known.operations.readable(),
        CommandKind::Write => known.operations.writable(),
        CommandKind::Execute => known.operations == Operations::E,
        CommandKind::Job => false,
    };
    if !allowed {
        let why = format!("`{path}` ({}) allows no {}", known.name, kind.as_str());
        return Err(NotAllowed::DoesNotFit(why));
    }
    if kind == CommandKind::Write && known.multiple != (ids.len() == 4) {
        let depth = if known.multiple { "has instances: name one of them" } else { "has no instances" };
        return Err(NotAllowed::DoesNotFit(format!("`{}` ({}) {depth}", path.upper(3), known.name)));
    }
    Ok(())
}

/// Why a path is kept from commands, and what does it instead.
fn protected(kind: CommandKind, object: u16, path: &Path) -> Option<(&'static str, &'static str)> {
    Some(match object {
        ids::SECURITY | OSCORE | COSE => {
            ("it holds credentials, which no server reads or writes", "certificates are renewed by the device itself")
        }
        ids::FIRMWARE | ids::SOFTWARE | ids::RELEASE => {
            ("software changes by signed releases alone", "use `mbl rollout start`; `mbl device show` tells what runs")
        }
        ids::CONFIGURATION => (
            "settings come from the documents of the account",
            "use `mbl configuration save` or `mbl configuration effective`",
        ),
        METRICS => ("the service itself observes it", "the values are kept by the service"),
        ids::JOB => ("jobs have their own permissions", "use `mbl job start`"),
        _ if kind == CommandKind::Execute && *path == FACTORY_RESET => {
            ("a factory reset has its own permission", "use `mbl device factory-reset`")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [CommandKind; 4] = [CommandKind::Read, CommandKind::Write, CommandKind::Execute, CommandKind::Observe];

    #[test]
    fn credentials_software_settings_and_jobs_are_kept_from_every_command() {
        for object in [0, 5, 9, 21, 23, 26_241, 26_242, 26_243, 26_244] {
            for kind in KINDS {
                let refused = check(kind, &Path::resource(object, 0, 1)).unwrap_err();
                assert!(matches!(refused, NotAllowed::Protected { .. }), "{} /{object}/0/1: {refused}", kind.as_str());
            }
            assert!(matches!(check(CommandKind::Read, &Path::object(object)), Err(NotAllowed::Protected { .. })));
        }
        let reset = check(CommandKind::Execute, &Path::resource(3, 0, 5)).unwrap_err();
        assert!(matches!(reset, NotAllowed::Protected { .. }), "{reset}");
    }

    #[test]
    fn an_operation_that_the_definition_does_not_allow_is_refused_by_name() {
        for (kind, path, said) in [
            (CommandKind::Write, "/3/0/0", "`/3/0/0` (Manufacturer) allows no write"),
            (CommandKind::Execute, "/3/0/13", "`/3/0/13` (Current Time) allows no execute"),
            (CommandKind::Read, "/3/0/4", "`/3/0/4` (Reboot) allows no read"),
            (CommandKind::Read, "/", "the path must name at least an object, as in `/3`"),
            (CommandKind::Write, "/3/0", "the path must name a resource or resource instance, as in `/1/0/2`"),
            (CommandKind::Execute, "/3/0/4/0", "the path must name a resource, as in `/3/0/4`"),
            (CommandKind::Read, "/3/0/99", "object 3 has no resource 99"),
            (CommandKind::Write, "/1/0/2/0", "`/1/0/2` (Default Minimum Period) has no instances"),
        ] {
            assert_eq!(check(kind, &path.parse().unwrap()).unwrap_err().to_string(), said);
        }
        for (kind, path) in [
            (CommandKind::Read, "/3"),
            (CommandKind::Observe, "/3/0/13"),
            (CommandKind::Read, "/3/0/11/0"),
            (CommandKind::Write, "/1/0/2"),
            (CommandKind::Execute, "/3/0/4"),
            (CommandKind::Write, "/3303/0/5601"),
            (CommandKind::Execute, "/3303/0/5605"),
        ] {
            assert_eq!(check(kind, &path.parse().unwrap()), Ok(()), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_at_or_below_a_protected_object_passes(
            object in prop_oneof![Just(0_u16), Just(5), Just(9), Just(26_241), Just(26_242), Just(26_244)],
            rest in prop::collection::vec(0_u16..65_535, 0..4), kind in 0_usize..4,
        ) {
            let ids: Vec<u16> = std::iter::once(object).chain(rest).take(4).collect();
            prop_assert!(check(KINDS[kind], &Path::new(&ids).unwrap()).is_err());
        }
    }
}
