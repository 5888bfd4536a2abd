//! What policies may speak of, in Cedar's own schema language, made from the routes of the API.

use std::{collections::BTreeSet, fmt::Write as _};

use cedar_policy::Schema;
use fleet_api::TokenScope;

use super::{AccessError, Routes};

/// The types. What the attributes of devices are called is up to the operators: they are tags in the sense of Cedar.
const TYPES: &str = r#"// An organisation, a customer or a site.
entity Account in [Account];
entity Role;
// A person, and a program.
entity User, Service in [Role] { account: String, name: String };
// A token that belongs to an account and to no principal.
entity Token { account: String, scopes: Set<String> };
// A group of devices, whatever it is that makes a device belong to it.
entity Group;
// `resource.getTag("rack")` is the attribute `rack` of the device, as text.
entity Device in [Account, Group] {
  name: String, standing: String, connected: Bool, tags: Set<String>
} tags String;
// How the request came: `time` in Unix seconds, `second_factor` whether a person showed one.
type Request = { scopes: Set<String>, address: String, second_factor: Bool, time: Long };

"#;

/// The schema for these routes.
pub(super) fn text(routes: &Routes) -> String {
    let mut text = TYPES.to_owned();
    for scope in TokenScope::ALL {
        // Writing to a text does not fail.
        let _ok = writeln!(text, "action \"{scope}\";");
    }
    let groups: BTreeSet<(String, TokenScope)> =
        routes.actions().map(|action| (action.group(), action.scope)).collect();
    for (group, scope) in groups {
        let _ok = writeln!(text, "action \"{group}\" in [\"{scope}\"];");
    }
    for action in routes.actions() {
        let resource = if action.on_device { "Device" } else { "Account" };
        let _ok = writeln!(
            text,
            "action \"{}\" in [\"{}\"] appliesTo {{ principal: [User, Service, Token], resource: [{resource}], context: Request }};",
            action.name,
            action.group(),
        );
    }
    text
}

pub(super) fn read(text: &str) -> Result<Schema, AccessError> {
    let (schema, _) = Schema::from_cedarschema_str(text).map_err(|e| AccessError::Schema(e.to_string()))?;
    Ok(schema)
}
