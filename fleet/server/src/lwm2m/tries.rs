//! How a try of a rollout is named towards a device: the first one as the rollout, the later ones `r7_2`, `r7_3`. A device that has
//! settled a wish does not begin it again, so each try is a wish of its own.

use protocol_types::RolloutId;

/// The name of a try, from 1.
pub(super) fn name(rollout: &RolloutId, attempt: u32) -> String {
    if attempt > 1 { format!("{rollout}_{attempt}") } else { rollout.to_string() }
}

/// Reads what `name` wrote.
pub(super) fn read(text: &str) -> Option<(RolloutId, u32)> {
    let later = text.rsplit_once('_').and_then(|(rollout, attempt)| {
        let attempt = attempt.parse::<u32>().ok().filter(|attempt| *attempt > 1)?;
        Some((RolloutId::new(rollout).ok()?, attempt))
    });
    // What only looks like a later try is the name of some other rollout.
    later.filter(|(rollout, attempt)| name(rollout, *attempt) == text).or_else(|| Some((RolloutId::new(text).ok()?, 1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_try_of_the_services_own_rollouts_reads_back(number in 1_u64.., attempt in 1_u32..) {
            let rollout = RolloutId::new(format!("r{number}")).unwrap();
            prop_assert_eq!(read(&name(&rollout, attempt)), Some((rollout, attempt)));
        }

        #[test]
        fn no_text_of_a_device_is_more_than_a_name(text in "\\PC{0,80}") {
            if let Some((rollout, attempt)) = read(&text) {
                prop_assert_eq!(name(&rollout, attempt), text);
            }
        }
    }
}
