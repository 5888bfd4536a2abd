//! What becomes of an alert, by facts alone. Holds back what does not last, and tells of each alert once until it is over.

use fleet_store::{AlertFacts, AlertNews, OpenAlert, Patience, Sight};
use protocol_types::UnixSeconds;

/// The alert from now on, and what is to be told.
pub(super) fn step(facts: AlertFacts, patience: Patience, now: UnixSeconds) -> (Option<OpenAlert>, Option<AlertNews>) {
    let lasted = |since: UnixSeconds, wanted: u64| now.0.saturating_sub(since.0) >= wanted;
    match (facts.open, facts.sight) {
        (None, Sight::Met) if patience.for_s > 0 => (Some(OpenAlert::Pending { since: now }), None),
        (None, Sight::Met) => raised(facts.silenced, now),
        (Some(OpenAlert::Pending { since }), Sight::Met) if lasted(since, patience.for_s) => {
            raised(facts.silenced, now)
        }
        (Some(pending @ OpenAlert::Pending { .. }), Sight::Met) => (Some(pending), None),
        (None | Some(OpenAlert::Pending { .. }), Sight::Between | Sight::Clear) => (None, None),
        (Some(OpenAlert::Raised { told, .. }), Sight::Met) => still(told, facts, patience, now),
        (Some(OpenAlert::Raised { told, .. }), Sight::Between) => {
            (Some(OpenAlert::Raised { told, clear_since: None }), None)
        }
        (Some(OpenAlert::Raised { told, clear_since }), Sight::Clear) => {
            let since = clear_since.unwrap_or(now);
            if lasted(since, patience.clear_for_s) {
                // What nobody was told of needs no end either.
                (None, told.map(|_| AlertNews::Resolved))
            } else {
                (Some(OpenAlert::Raised { told, clear_since: Some(since) }), None)
            }
        }
    }
}

fn raised(silenced: bool, now: UnixSeconds) -> (Option<OpenAlert>, Option<AlertNews>) {
    let (told, news) = if silenced { (None, None) } else { (Some(now), Some(AlertNews::Raised)) };
    (Some(OpenAlert::Raised { told, clear_since: None }), news)
}

/// An alert whose condition still holds.
fn still(
    told: Option<UnixSeconds>,
    facts: AlertFacts,
    patience: Patience,
    now: UnixSeconds,
) -> (Option<OpenAlert>, Option<AlertNews>) {
    let due = |at: UnixSeconds| patience.remind_s > 0 && now.0.saturating_sub(at.0) >= patience.remind_s;
    match told {
        None => raised(facts.silenced, now),
        Some(at) if due(at) && !facts.silenced && !facts.acknowledged => {
            (Some(OpenAlert::Raised { told: Some(now), clear_since: None }), Some(AlertNews::Reminder))
        }
        Some(_) => (Some(OpenAlert::Raised { told, clear_since: None }), None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to one device, second after second.
    #[derive(Clone, Copy, Debug)]
    struct Second {
        sight: Sight,
        silenced: bool,
        acknowledged: bool,
    }

    fn second() -> impl Strategy<Value = Second> {
        let sight = prop::sample::select(vec![Sight::Met, Sight::Met, Sight::Between, Sight::Clear]);
        (sight, prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(sight, silenced, acknowledged)| Second { sight, silenced, acknowledged })
    }

    fn patience() -> impl Strategy<Value = Patience> {
        (0..5_u64, 0..5_u64, 0..8_u64).prop_map(|(for_s, clear_for_s, remind_s)| Patience {
            for_s,
            clear_for_s,
            remind_s,
        })
    }

    const START: u64 = 1_800_000_000;

    /// What was told in which second, and whether an alert was raised after each.
    fn live(seconds: &[Second], patience: Patience) -> (Vec<(usize, AlertNews)>, Vec<bool>) {
        let (mut open, mut told, mut raised) = (None, Vec::new(), Vec::new());
        for (index, second) in seconds.iter().enumerate() {
            let Second { sight, silenced, acknowledged } = *second;
            let facts = AlertFacts { open, sight, silenced, acknowledged };
            let (next, news) = step(facts, patience, UnixSeconds(START + index as u64));
            told.extend(news.map(|news| (index, news)));
            raised.push(matches!(next, Some(OpenAlert::Raised { .. })));
            open = next;
        }
        (told, raised)
    }

    proptest! {
        #[test]
        fn an_alert_is_told_once_until_it_is_over(
            seconds in prop::collection::vec(second(), 0..80), patience in patience(),
        ) {
            let (told, _) = live(&seconds, patience);
            let mut is_told = false;
            for (_, news) in told {
                prop_assert_eq!(is_told, news != AlertNews::Raised, "{:?}", news);
                is_told = news != AlertNews::Resolved;
            }
        }

        #[test]
        fn nothing_is_raised_that_has_not_lasted_and_nothing_ends_that_comes_back_in_time(
            seconds in prop::collection::vec(second(), 1..80), patience in patience(),
        ) {
            let (_, raised) = live(&seconds, patience);
            let whole = |length: u64| usize::try_from(length).unwrap();
            for at in 0..seconds.len() {
                let was = at > 0 && raised[at - 1];
                if raised[at] && !was {
                    let from = at.checked_sub(whole(patience.for_s));
                    prop_assert!(from.is_some_and(|from| seconds[from..=at].iter().all(|s| s.sight == Sight::Met)), "{at}");
                }
                if was && !raised[at] {
                    let from = at.checked_sub(whole(patience.clear_for_s));
                    prop_assert!(from.is_some_and(|from| seconds[from..=at].iter().all(|s| s.sight == Sight::Clear)), "{at}");
                }
            }
        }

        #[test]
        fn a_silence_and_an_acknowledgement_keep_quiet_and_hide_nothing(
            seconds in prop::collection::vec(second(), 1..80), patience in patience(),
        ) {
            let (told, raised) = live(&seconds, patience);
            for (at, news) in &told {
                prop_assert!(*news == AlertNews::Resolved || !seconds[*at].silenced, "{at}");
                prop_assert!(*news != AlertNews::Reminder || !seconds[*at].acknowledged, "{at}");
            }
            let loud: Vec<Second> = seconds.iter().map(|s| Second { silenced: false, acknowledged: false, ..*s }).collect();
            prop_assert_eq!(&live(&loud, patience).1, &raised, "what is raised does not depend on who listens");
            // At the end of a silence an alert that goes on is told of, late.
            for at in 1..seconds.len() {
                let goes_on = raised[at - 1] && raised[at] && seconds[at].sight == Sight::Met && !seconds[at].silenced;
                let news_before = told.iter().filter(|(when, _)| *when < at).map(|(_, news)| *news).next_back();
                let untold = news_before.is_none_or(|news| news == AlertNews::Resolved);
                if goes_on && untold {
                    prop_assert!(told.contains(&(at, AlertNews::Raised)), "{at}");
                }
            }
        }

        #[test]
        fn an_alert_that_nobody_acknowledges_is_told_again_and_again(remind_s in 1..10_u64) {
            let patience = Patience { for_s: 0, clear_for_s: 0, remind_s };
            let second = Second { sight: Sight::Met, silenced: false, acknowledged: false };
            let (told, _) = live(&[second; 60], patience);
            let gaps: Vec<usize> = told.windows(2).map(|two| two[1].0 - two[0].0).collect();
            prop_assert!(!gaps.is_empty() && gaps.iter().all(|gap| *gap as u64 == remind_s), "{gaps:?}");
        }
    }
}
