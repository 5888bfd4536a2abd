//! `/devices/{endpoint}/effective-configuration`: what the documents of all levels come to for a device, and what it says of that.

use axum::{Json, extract::State};
use fleet_api::{
    ConfigurationChange, ConfigurationLayer, ConfigurationLevel as Level, ConfigurationStatus, EffectiveConfiguration,
    EffectiveSetting, ReportedConfiguration,
};
use fleet_store::{ConfigurationLevel, ConfigurationReport, ConfigurationRow, GivenConfiguration};
use protocol_types::{DeviceConfiguration, EndpointName, UnixSeconds};
use serde_json::{Map, Value};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    configuration::{DeviceSecrets, Effective, changes, effective, status},
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::Segments,
        caller::{Caller, need},
        configuration::secrets,
    },
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(show))
}

pub(crate) const fn api_level(level: &ConfigurationLevel) -> Level {
    match level {
        ConfigurationLevel::Account => Level::Account,
        ConfigurationLevel::Group(_) => Level::Group,
        ConfigurationLevel::Device(_) => Level::Device,
    }
}

fn layer(row: &ConfigurationRow) -> ConfigurationLayer {
    ConfigurationLayer {
        level: api_level(&row.level),
        name: row.level.name().to_owned(),
        priority: row.priority,
        revision: row.revision,
        rollout: row.released.as_ref().map(|released| released.rollout.clone()),
    }
}

fn reported((report, received): &(ConfigurationReport, UnixSeconds)) -> ReportedConfiguration {
    ReportedConfiguration {
        state: report.state.to_string(),
        generation: report.generation,
        digest: report.digest,
        reason_code: report.reason.as_ref().map(|reason| reason.code.to_string()),
        reason: report.reason.as_ref().map(|reason| reason.text.clone()),
        received: *received,
    }
}

/// What the device last confirmed and should have otherwise.
fn drift(wanted: &Effective, given: Option<&GivenConfiguration>) -> Reply<Vec<ConfigurationChange>> {
    let confirmed = given.and_then(|given| given.confirmed.as_deref());
    let confirmed: Option<Map<String, Value>> =
        confirmed.map(serde_json::from_str).transpose().map_err(|error| Refusal::internal(&error))?;
    let mut confirmed = confirmed.unwrap_or_default();
    // A sealed text says nothing to anybody but the device.
    confirmed.remove(DeviceConfiguration::SECRETS);
    Ok(changes(&confirmed, &wanted.document))
}

/// What the documents of all levels come to for a device, where each setting comes from, and what the device says of it.
#[utoipa::path(get, path = "/devices/{endpoint}/effective-configuration", tag = "configuration",
    operation_id = "show_effective_configuration", params(("endpoint" = String, Path, description = "The device")),
    security(("token" = ["read"])),
    responses((status = 200, description = "The settings of the device", body = EffectiveConfiguration)))]
async fn show(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<Json<EffectiveConfiguration>> {
    who.account.device(&endpoint).await?;
    let mut all = who.account.configuration_layers(std::slice::from_ref(&endpoint), fleet.clock.now()).await?;
    let layers = all.remove(&endpoint).unwrap_or_default();
    let given = who.account.given_configuration(&endpoint).await?;
    let sealed = DeviceSecrets::read(&who.account, &endpoint, fleet.clock.now()).await?;
    let wanted = effective(&layers).with_secrets(sealed.document());
    let from = |(path, value, index): &(String, serde_json::Value, usize)| {
        let level = &layers.get(*index)?.level;
        let (level, name) = (api_level(level), level.name().to_owned());
        Some(EffectiveSetting { path: path.clone(), value: value.clone(), level, name })
    };
    Ok(Json(EffectiveConfiguration {
        status: match status(&wanted, given.as_ref()) {
            // What it has so far may be in force; what it should have is more.
            ConfigurationStatus::InForce | ConfigurationStatus::Unset if !sealed.is_complete() => {
                ConfigurationStatus::Waiting
            }
            other => other,
        },
        digest: wanted.digest(),
        layers: layers.iter().map(layer).collect(),
        settings: wanted.settings.iter().filter_map(from).collect(),
        takes_secrets: sealed.key.is_some() || who.account.sealing_key(&endpoint).await?.is_some(),
        secrets: sealed.wanted.into_iter().map(|row| secrets::view(row.secret)).collect(),
        generation: given.as_ref().map_or(0, |given| given.generation),
        reported: given.as_ref().and_then(|given| given.report.as_ref()).map(reported),
        drift: drift(&wanted, given.as_ref())?,
        invalid: wanted.invalid,
        document: wanted.document,
        endpoint,
    }))
}
