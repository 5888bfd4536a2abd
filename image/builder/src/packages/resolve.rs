//! From what apt would install to what an image takes: dependencies that are left out on purpose, and all that only they needed,
//! go. Pure: stanzas in, locked packages out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    control::Control,
    lock::{LockedPackage, Pool},
};

/// A set of packages that does not close.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A package was named that apt did not resolve.
    #[error("apt resolved no package `{0}`")]
    Unknown(String),
    /// A dependency is neither there nor left out on purpose.
    #[error("`{package}` needs `{needs}`, which is neither resolved nor in the recipe's list `without`")]
    Unmet {
        /// The package.
        package: String,
        /// What it needs.
        needs: String,
    },
    /// A package is both wanted and left out.
    #[error("`{0}` is named by the recipe and by its list `without`")]
    Both(String),
    /// An exception that nothing uses hides nothing but the next mistake.
    #[error("nothing needs `{0}`, so it need not stand in the list `without`")]
    Unused(String),
}

/// The packages that `named` need among `candidates`, without those in `without`.
pub(crate) fn resolve(
    pool: Pool,
    candidates: &[Control],
    named: &BTreeSet<&str>,
    without: &BTreeSet<&str>,
) -> Result<Vec<LockedPackage>, ResolveError> {
    if let Some(both) = named.intersection(without).next() {
        return Err(ResolveError::Both((*both).to_owned()));
    }
    let by_name: BTreeMap<&str, &Control> = candidates.iter().map(|control| (control.name.as_str(), control)).collect();
    let mut providers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for control in by_name.values() {
        for virtual_name in &control.provides {
            providers.entry(virtual_name).or_default().push(&control.name);
        }
    }
    let (mut left_out, mut done) = (BTreeSet::new(), BTreeMap::new());
    let mut open: VecDeque<&str> = named.iter().copied().collect();
    while let Some(name) = open.pop_front() {
        if done.contains_key(name) {
            continue;
        }
        let control = *by_name.get(name).ok_or_else(|| ResolveError::Unknown(name.to_owned()))?;
        let mut needs = BTreeSet::new();
        for group in &control.depends {
            // The alternatives that exist, in the order of preference in which the package names them.
            let met = group.iter().flat_map(|wanted| {
                let real = by_name.contains_key(wanted.as_str()).then_some(wanted.as_str());
                real.into_iter().chain(providers.get(wanted.as_str()).into_iter().flatten().copied())
            });
            let met: Vec<&str> = met.collect();
            if let Some(&chosen) = met.iter().find(|&&name| !without.contains(name)) {
                needs.insert(chosen);
            } else if let Some(&skipped) = met
                .iter()
                .chain(group.iter().map(String::as_str).collect::<Vec<_>>().iter())
                .find(|n| without.contains(**n))
            {
                left_out.insert(skipped);
            } else {
                return Err(ResolveError::Unmet { package: name.to_owned(), needs: group.join("` or `") });
            }
        }
        needs.remove(name);
        open.extend(needs.iter().copied());
        done.insert(name, (control, needs));
    }
    if let Some(unused) = without.difference(&left_out).next() {
        return Err(ResolveError::Unused((*unused).to_owned()));
    }
    let locked = done.into_values().map(|(control, needs)| LockedPackage {
        pool,
        name: control.name.clone(),
        version: control.version.clone(),
        architecture: control.architecture.clone(),
        size: control.size,
        digest: control.digest,
        needs: needs.into_iter().map(str::to_owned).collect(),
    });
    Ok(locked.collect())
}

#[cfg(test)]
mod tests {
    use protocol_types::Digest;

    use super::*;

    fn control(name: &str, depends: &[&[&str]], provides: &[&str]) -> Control {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        Control {
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: "arm64".to_owned(),
            size: 1,
            digest: Digest::of(name.as_bytes()),
            depends: depends.iter().map(|group| owned(group)).collect(),
            provides: owned(provides),
        }
    }

    fn candidates() -> Vec<Control> {
        vec![
            control("service", &[&["library"], &["scripts"], &["bus"]], &[]),
            control("library", &[], &[]),
            control("scripts", &[&["perl"]], &[]),
            control("perl", &[], &[]),
            control("broker", &[], &["bus"]),
        ]
    }

    fn run(named: &[&str], without: &[&str]) -> Result<Vec<(String, Vec<String>)>, ResolveError> {
        let set = |names: &[&'static str]| -> BTreeSet<&str> { names.iter().copied().collect() };
        let leak = |names: &[&str]| -> Vec<&'static str> {
            names.iter().map(|name| &*Box::leak(name.to_string().into_boxed_str())).collect()
        };
        let locked = resolve(Pool::Device, &candidates(), &set(&leak(named)), &set(&leak(without)))?;
        Ok(locked.into_iter().map(|package| (package.name, package.needs)).collect())
    }

    #[test]
    fn what_is_left_out_takes_along_what_only_it_needed() {
        let names: Vec<String> = run(&["service"], &["scripts"]).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["broker", "library", "service"]);
    }

    #[test]
    fn a_virtual_package_is_met_by_its_provider() {
        let all = run(&["service"], &[]).unwrap();
        assert!(
            all.contains(&("service".into(), vec!["broker".into(), "library".into(), "scripts".into()])),
            "{all:?}"
        );
    }

    #[test]
    fn a_dependency_that_is_not_there_is_refused() {
        let mut short = candidates();
        short.retain(|control| control.name != "library");
        let named = ["service"].into();
        let error = resolve(Pool::Device, &short, &named, &BTreeSet::new()).unwrap_err();
        assert_eq!(error, ResolveError::Unmet { package: "service".into(), needs: "library".into() });
    }

    #[test]
    fn exceptions_must_be_used_and_not_contradict_the_recipe() {
        assert_eq!(run(&["library"], &["perl"]), Err(ResolveError::Unused("perl".into())));
        assert_eq!(run(&["library"], &["library"]), Err(ResolveError::Both("library".into())));
        assert_eq!(run(&["absent"], &[]), Err(ResolveError::Unknown("absent".into())));
    }
}
