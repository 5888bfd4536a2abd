//! The object definitions in code and those in `docs/lwm2m/*.xml` say the same.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a file that cannot be read should stop the test")]

use std::{collections::BTreeMap, fs, path::Path};

use protocol_lwm2m::object::{OBJECTS, Object, Operations, Type};

/// The text of the first element `name` in `xml`, and what follows it.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, after) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no <{name}>"));
    after.split_once(&format!("</{name}>")).unwrap().0
}

/// One line an object and one a resource, in the words of the XML.
fn from_file(xml: &str) -> Vec<String> {
    let (head, resources) = xml.split_once("<Resources>").unwrap();
    let of = |part: &str, names: &[&str]| names.iter().map(|name| element(part, name)).collect::<Vec<_>>().join(" | ");
    let mut lines =
        vec![of(head, &["ObjectID", "Name", "ObjectURN", "ObjectVersion", "MultipleInstances", "Mandatory"])];
    for item in resources.split("<Item ID=\"").skip(1) {
        let id = item.split_once('"').unwrap().0;
        let rest = of(item, &["Name", "Operations", "MultipleInstances", "Mandatory", "Type"]);
        assert!(element(item, "Description").len() > 5, "resource {id} is not described");
        lines.push(format!("{id} | {rest}"));
    }
    lines
}

fn from_code(object: &Object) -> Vec<String> {
    let many = |multiple| if multiple { "Multiple" } else { "Single" };
    let must = |mandatory| if mandatory { "Mandatory" } else { "Optional" };
    let (major, minor) = object.version;
    let owner = if object.id < 1024 { "oma" } else { "x" };
    let version = if object.version == (1, 0) { String::new() } else { format!(":{major}.{minor}") };
    let urn = format!("urn:oma:lwm2m:{owner}:{}{version}", object.id);
    let (id, name) = (object.id, object.name);
    let mut lines = vec![format!(
        "{id} | {name} | {urn} | {major}.{minor} | {} | {}",
        many(object.multiple),
        must(object.mandatory)
    )];
    for resource in object.resources {
        let operations = match resource.operations {
            Operations::None => "",
            Operations::R => "R",
            Operations::W => "W",
            Operations::RW => "RW",
            Operations::E => "E",
        };
        let kind = match resource.kind {
            Type::None => "",
            Type::String => "String",
            Type::Integer => "Integer",
            Type::Unsigned => "Unsigned Integer",
            Type::Float => "Float",
            Type::Boolean => "Boolean",
            Type::Opaque => "Opaque",
            Type::Time => "Time",
            Type::ObjectLink => "Objlnk",
            Type::CoreLink => "Corelnk",
        };
        let (id, name) = (resource.id, resource.name);
        let (multiple, mandatory) = (many(resource.multiple), must(resource.mandatory));
        lines.push(format!("{id} | {name} | {operations} | {multiple} | {mandatory} | {kind}"));
    }
    lines
}

#[test]
fn code_and_xml_define_the_same_objects() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lwm2m");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let id: u16 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        files.insert(id, from_file(&fs::read_to_string(path).unwrap()));
    }
    let code: BTreeMap<_, _> = OBJECTS.iter().map(|object| (object.id, from_code(object))).collect();
    assert_eq!(files, code);
}

#[test]
fn objects_and_resources_are_in_the_order_of_their_ids() {
    assert!(OBJECTS.is_sorted_by(|a, b| a.id < b.id));
    for object in OBJECTS {
        assert!(object.resources.is_sorted_by(|a, b| a.id < b.id), "object {}", object.id);
        for resource in object.resources {
            let executable = resource.operations == Operations::E;
            assert_eq!(executable, resource.kind == Type::None, "/{}/x/{}", object.id, resource.id);
        }
    }
}
