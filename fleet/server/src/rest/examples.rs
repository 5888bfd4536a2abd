//! Puts examples of requests and answers into the description: `examples.json` has them by the name of the operation.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::{Content, RefOr, path::Operation};

const TEXT: &str = include_str!("examples.json");
const JSON: &str = "application/json";

/// Examples by the name of the operation.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Examples {
    requests: BTreeMap<String, Value>,
    answers: BTreeMap<String, Value>,
}

impl Examples {
    pub(super) fn read() -> Self {
        // A test holds that each of them reaches the description.
        serde_json::from_str(TEXT).unwrap_or_default()
    }

    /// Gives the operation its examples.
    pub(super) fn add(&self, operation: &mut Operation) {
        let Some(name) = &operation.operation_id else { return };
        if let (Some(example), Some(RefOr::T(body))) = (self.requests.get(name), &mut operation.request_body) {
            show(body.content.get_mut(JSON), example);
        }
        let Some(example) = self.answers.get(name) else { return };
        for (status, answer) in &mut operation.responses.responses {
            if let RefOr::T(answer) = answer
                && status.starts_with('2')
            {
                show(answer.content.get_mut(JSON), example);
            }
        }
    }
}

fn show(content: Option<&mut RefOr<Content>>, example: &Value) {
    if let Some(RefOr::T(content)) = content {
        content.example = Some(example.clone());
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Request, StatusCode, header},
    };
    use fleet_api::{Command, Device, Event, Group, Job, JobDevice, Observed, Operation, Page, TokenScope};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::{super::openapi, Examples};
    use crate::test_service::TestService;

    /// Method, path, name and example of each operation that reads JSON.
    fn requests() -> Vec<(String, String, String, Value)> {
        let description = serde_json::to_value(openapi()).unwrap();
        let mut found = Vec::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let Some(body) = operation["requestBody"]["content"].get("application/json") else { continue };
                let name = operation["operationId"].as_str().unwrap().to_owned();
                let path = path.replace("{endpoint}", "gate-42").replace("{name}", "doors").replace("{id}", "r1");
                found.push((method.to_uppercase(), path, name, body["example"].clone()));
            }
        }
        found
    }

    #[tokio::test]
    async fn every_json_body_has_an_example_that_the_service_can_read() {
        let service = TestService::start().await;
        let token = service.token("default", &[TokenScope::Admin]).await;
        let requests = requests();
        assert_eq!(requests.len(), Examples::read().requests.len(), "each example belongs to an operation");
        for (method, path, name, example) in requests {
            assert!(example.is_object(), "{name} has no example");
            let request = Request::builder()
                .method(method.as_str())
                .uri(path)
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::IF_MATCH, "*")
                .body(Body::from(example.to_string()))
                .unwrap();
            let status = service.router().oneshot(request).await.unwrap().status();
            assert_ne!(status, StatusCode::BAD_REQUEST, "{name}: {example}");
            assert!(!status.is_server_error(), "{name}: {example}");
        }
    }

    fn reads<T: DeserializeOwned + serde::Serialize>(example: &Value) {
        let value: T = serde_json::from_value(example.clone()).unwrap();
        let mut written = serde_json::to_value(value).unwrap();
        if example.get("next").is_none() && written["next"].is_null() {
            written.as_object_mut().unwrap().remove("next");
        }
        assert_eq!(&written, example);
    }

    #[test]
    fn the_examples_of_answers_are_answers() {
        let description = serde_json::to_value(openapi()).unwrap();
        let items = description["paths"].as_object().unwrap().values();
        let shown: Vec<&Value> = items
            .flat_map(|item| item.as_object().unwrap().values())
            .filter(|operation| {
                ["200", "201", "202"].iter().any(|status| {
                    operation["responses"][status]["content"]["application/json"]["example"] != json!(null)
                })
            })
            .collect();
        let Examples { answers, .. } = Examples::read();
        assert_eq!(shown.len(), answers.len(), "each example belongs to an operation");
        for (name, example) in &answers {
            match name.as_str() {
                "create_group" | "change_group" => reads::<Group>(example),
                "list_groups" => reads::<Page<Group>>(example),
                "change_device" => reads::<Device>(example),
                "list_devices" => reads::<Page<Device>>(example),
                "show_command" | "write_resource" => reads::<Command>(example),
                "run_probe" | "show_job" => reads::<Job>(example),
                "show_job_device" => reads::<JobDevice>(example),
                "list_command_values" => reads::<Observed>(example),
                "list_events" => reads::<Page<Event>>(example),
                "edit_devices" => reads::<Operation>(example),
                other => panic!("nothing says of what type the answer of {other} is"),
            }
        }
    }
}
