//! Completes what the handlers say of themselves: the token, and every refusal that an operation can give. What a handler reads
//! decides which ones, so a new route is described in full without a line here.

use std::collections::BTreeSet;

use fleet_api::{BASE_PATH, Problem, ProblemCode};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Type,
    path::{Operation, Parameter, ParameterIn, PathItem},
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::rest::examples::Examples;

/// Completes the description.
pub(super) fn complete(description: &mut OpenApi) {
    let components = description.components.get_or_insert_default();
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    components.add_security_scheme("token", token);
    let documented: BTreeSet<u16> = ProblemCode::ALL.iter().map(|code| code.status()).collect();
    for status in documented {
        components.responses.insert(name(status), refusal(status).into());
    }
    let any = ResponseBuilder::new().description("Refused; nothing was changed");
    let any: RefOr<Response> = any.content("application/problem+json", problem().build()).build().into();
    let examples = Examples::read(serde_json::to_value(&components.schemas).unwrap_or_default());
    for (path, item) in &mut description.paths.paths {
        for (changes, operation) in operations(item) {
            examples.add(operation);
            let mut given = statuses(changes, operation);
            if operation.security.is_none() && path.starts_with(BASE_PATH) {
                // Whatever needs no token is counted by address.
                given.insert(429);
            }
            for status in given {
                let known = Ref::from_response_name(name(status)).into();
                operation.responses.responses.entry(status.to_string()).or_insert(known);
            }
            operation.responses.responses.insert("default".to_owned(), any.clone());
        }
    }
}

/// The operations of a path, and whether each may change something.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (bool, &mut Operation)> {
    let reads = [&mut item.get, &mut item.head].into_iter().flatten().map(|operation| (false, operation));
    let changes = [&mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
    reads.chain(changes.into_iter().flatten().map(|operation| (true, operation)))
}

/// The statuses of the refusals that an operation can give, by what it reads.
fn statuses(changes: bool, operation: &Operation) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::from([500, 503]);
    let parameters: Vec<&Parameter> = operation
        .parameters
        .iter()
        .flatten()
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        })
        .collect();
    let reads_query = parameters.iter().any(|parameter| parameter.parameter_in == ParameterIn::Query);
    // What is open and reads something lets somebody in, or not.
    if operation.security.is_some() || operation.request_body.is_some() || reads_query {
        // The account that the request names may be missing, whatever the path says.
        statuses.extend([401, 403, 404, 429]);
    }
    if parameters.iter().any(|parameter| parameter.parameter_in != ParameterIn::Path) {
        statuses.extend([400, 422]);
    }
    if operation.request_body.is_some() {
        statuses.extend([400, 408, 413, 415, 422]);
    }
    if changes {
        statuses.extend([409, 422, 507]);
    }
    if parameters.iter().any(|parameter| parameter.name == "if-match") {
        statuses.extend([412, 428]);
    }
    statuses
}

fn name(status: u16) -> String {
    format!("Refused{status}")
}

fn problem() -> ContentBuilder {
    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")))
}

/// All that the service refuses with this status.
fn refusal(status: u16) -> Response {
    let codes: Vec<ProblemCode> = ProblemCode::ALL.iter().copied().filter(|code| code.status() == status).collect();
    let listed: Vec<String> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
    let example = codes.first().map(|&code| Problem::new(code, code.title()));
    let content = problem().example(example.and_then(|example| serde_json::to_value(example).ok())).build();
    let more = if status == 422 { ", or the reason for which a device would refuse a release" } else { "" };
    let mut response = ResponseBuilder::new()
        .description(format!("Refused, with the code {}{more}", listed.join(" or ")))
        .content("application/problem+json", content);
    if status == 429 {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
        let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds to wait")).build();
        response = response.header("retry-after", header);
    }
    response.build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fleet_api::ProblemCode;
    use serde_json::Value;

    #[test]
    fn every_code_of_a_refusal_is_described_with_its_status() {
        let description = serde_json::to_value(super::super::openapi()).unwrap();
        let responses = &description["components"]["responses"];
        for code in ProblemCode::ALL {
            let said = responses[super::name(code.status())]["description"].as_str().unwrap_or_default();
            assert!(said.contains(&format!("`{}`", code.as_str())), "{}: {said}", code.as_str());
        }
    }

    #[test]
    fn every_status_of_a_refusal_belongs_to_an_operation() {
        let description = serde_json::to_value(super::super::openapi()).unwrap();
        let operations = description["paths"].as_object().unwrap().values();
        let operations = operations.flat_map(|item| item.as_object().unwrap().values());
        let given: BTreeSet<String> = operations
            .flat_map(|operation: &Value| operation["responses"].as_object().unwrap().keys().cloned())
            .collect();
        for code in ProblemCode::ALL.iter().filter(|code| **code != ProblemCode::MethodNotAllowed) {
            assert!(given.contains(&code.status().to_string()), "no operation gives {}", code.as_str());
        }
    }
}
