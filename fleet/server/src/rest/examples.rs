//! Puts examples of requests and answers into the description. `examples.json` has those of requests and some answers by the name of the
//! operation, and of the schemas that answers are made of; pages and the like are put together from these.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::openapi::{Content, RefOr, path::Operation};

const TEXT: &str = include_str!("examples.json");
const JSON: &str = "application/json";
/// How deep schemas refer to each other, at most.
const DEPTH: u32 = 8;

/// Examples by the name of the operation or schema.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Examples {
    requests: BTreeMap<String, Value>,
    answers: BTreeMap<String, Value>,
    schemas: BTreeMap<String, Value>,
    /// The schemas of the description.
    #[serde(skip)]
    known: Value,
}

impl Examples {
    /// Reads the examples for a description with these schemas.
    pub(super) fn read(known: Value) -> Self {
        // A test holds that each of them reaches the description.
        let examples: Self = serde_json::from_str(TEXT).unwrap_or_default();
        Self { known, ..examples }
    }

    /// Gives the operation its examples.
    pub(super) fn add(&self, operation: &mut Operation) {
        let Some(name) = operation.operation_id.clone() else { return };
        if let (Some(example), Some(RefOr::T(body))) = (self.requests.get(&name), &mut operation.request_body) {
            show(body.content.get_mut(JSON), example);
        }
        for (status, answer) in &mut operation.responses.responses {
            if let RefOr::T(answer) = answer
                && status.starts_with('2')
            {
                let content = answer.content.get_mut(JSON);
                let example = self.answers.get(&name).cloned().or_else(|| self.of_content(content.as_deref()));
                if let Some(example) = example {
                    show(content, &example);
                }
            }
        }
    }

    fn of_content(&self, content: Option<&RefOr<Content>>) -> Option<Value> {
        let RefOr::T(content) = content? else { return None };
        self.of(&serde_json::to_value(content.schema.as_ref()?).ok()?, DEPTH)
    }

    /// The example of a schema: the one that is written down, or what those of its parts make.
    fn of(&self, schema: &Value, depth: u32) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/")) {
            return self.schemas.get(name).cloned().or_else(|| self.of(self.known.get(name)?, depth));
        }
        match schema["type"].as_str()? {
            "array" => self.of(&schema["items"], depth).map(|item| Value::Array(vec![item])),
            "object" => {
                let needed = schema["required"].as_array()?.iter().filter_map(Value::as_str);
                let field = |name: &str| Some((name.to_owned(), self.of(&schema["properties"][name], depth)?));
                needed.map(field).collect::<Option<Map<String, Value>>>().map(Value::Object)
            }
            _ => None,
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
    use fleet_api::TokenScope;
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
        assert_eq!(requests.len(), Examples::read(Value::Null).requests.len(), "each example belongs to an operation");
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

    /// What is wrong with a value by a schema of the description, as far as the descriptions of this API go.
    fn faults(known: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.strip_prefix("#/components/schemas/").unwrap();
            return faults(known, &known[name], value, at);
        }
        if let Some(variants) = schema["oneOf"].as_array() {
            let fits = variants.iter().any(|variant| faults(known, variant, value, at).is_empty());
            return if fits { Vec::new() } else { vec![format!("{at} is none of what it may be")] };
        }
        let mut found: Vec<String> =
            schema["allOf"].as_array().into_iter().flatten().flat_map(|part| faults(known, part, value, at)).collect();
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let named = schema["type"].as_str().into_iter();
        let kinds: Vec<&str> =
            named.chain(schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str)).collect();
        let is_whole_number = kind == "integer" && kinds.contains(&"number");
        if !(kinds.is_empty() || kinds.contains(&kind) || is_whole_number) {
            found.push(format!("{at} is of type {kind} and not {kinds:?}"));
        }
        if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            found.push(format!("{at} is none of the words"));
        }
        for item in value.as_array().into_iter().flatten() {
            found.extend(faults(known, &schema["items"], item, at));
        }
        let Some(fields) = value.as_object() else { return found };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                found.push(format!("{at} lacks `{name}`"));
            }
        }
        for (name, field) in fields {
            let at = format!("{at}/{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(form), _) | (None, Some(form)) => found.extend(faults(known, form, field, &at)),
                (None, None) if schema.get("properties").is_some() => found.push(format!("{at} is no field")),
                (None, None) => {}
            }
        }
        found
    }

    #[test]
    fn every_json_answer_has_an_example_that_is_what_its_schema_says() {
        let description = serde_json::to_value(openapi()).unwrap();
        let known = &description["components"]["schemas"];
        let (mut shown, mut used) = (0, Vec::new());
        for item in description["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let name = operation["operationId"].as_str().unwrap_or_default();
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    let content = &answer["content"]["application/json"];
                    if !status.starts_with('2') || content.is_null() {
                        continue;
                    }
                    assert_ne!(content["example"], json!(null), "the answer of {name} has no example");
                    assert_eq!(faults(known, &content["schema"], &content["example"], name), [""; 0]);
                    shown += 1;
                    used.push(name);
                }
            }
        }
        assert!(shown > 100, "{shown} answers have examples");
        let Examples { answers, schemas, .. } = Examples::read(known.clone());
        for name in answers.keys() {
            assert!(used.contains(&name.as_str()), "no operation answers with the example of {name}");
        }
        for (name, example) in &schemas {
            assert!(known.get(name).is_some(), "there is no schema {name}");
            assert_eq!(faults(known, &known[name.as_str()], example, name), [""; 0]);
        }
    }

    #[test]
    fn an_example_that_is_not_what_its_schema_says_is_found() {
        let description = serde_json::to_value(openapi()).unwrap();
        let known = &description["components"]["schemas"];
        let good = json!({"name": "doors", "title": "", "members": 1, "created": 1, "revision": 1});
        assert_eq!(faults(known, &known["Group"], &good, "group"), [""; 0]);
        for (field, value) in [("members", json!("one")), ("colour", json!("red")), ("name", json!(null))] {
            let mut wrong = good.clone();
            wrong[field] = value;
            assert_eq!(faults(known, &known["Group"], &wrong, "group").len(), 1, "{wrong}");
        }
        let mut wrong = good;
        wrong.as_object_mut().unwrap().remove("created");
        assert_eq!(faults(known, &known["Group"], &wrong, "group"), ["group lacks `created`"]);
    }
}
