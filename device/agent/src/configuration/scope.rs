//! Which settings the service may give on a board. Never brings any into force.

use protocol_types::Configuration;

use super::SystemLink;

/// What a board takes from the service.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All settings: on the board `host`, files stand for the operating system.
    All,
    /// All settings: a process of the operating system brings those into force that are its own.
    System(SystemLink),
    /// Those that the processes of a device keep to themselves. What only the operating system can do comes with a signed release.
    Processes,
}

impl Scope {
    /// Refuses settings that the board does not take, by name.
    pub(super) fn check(&self, settings: &Configuration) -> Result<(), String> {
        match self {
            Self::All | Self::System(_) => return Ok(()),
            Self::Processes => {}
        }
        let of_system = [
            ("hostname", settings.hostname.is_some()),
            ("time_servers", settings.time_servers.is_some()),
            ("network", settings.network.as_ref().is_some_and(|network| !network.is_empty())),
        ];
        match of_system.into_iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => Err(format!("this board takes `{name}` from its release and not from the service")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_refuses_what_only_its_operating_system_can_do_by_name() {
        let check = |scope: Scope, text: &str| scope.check(&Configuration::parse(text.as_bytes()).unwrap());
        let own =
            r#"{"log_levels":{"apps":"debug"},"update_window":{"from":"01:00","to":"02:00"},"applications":{"a":{}}}"#;
        assert_eq!(check(Scope::Processes, own), Ok(()));
        for (name, text) in [
            ("hostname", r#"{"hostname":"a"}"#),
            ("time_servers", r#"{"time_servers":["a"]}"#),
            ("network", r#"{"network":{"eth0":{"addresses":["192.0.2.7/24"]}}}"#),
        ] {
            assert!(check(Scope::Processes, text).unwrap_err().contains(name));
            assert_eq!(check(Scope::All, text), Ok(()));
            assert_eq!(check(Scope::System(SystemLink::new("/none")), text), Ok(()));
        }
    }
}
