//! The names in a sector of a folder. Never says which sector that is, and never looks at what a name leads to.

use super::geometry::{NAME, REMOVED, Sector};

/// Whether this is the first sector of a folder other than the topmost one.
pub(super) fn is_first(sector: &Sector) -> bool {
    sector.starts_with(b".          ")
}

/// Whether there is a name in use before the end of the names.
pub(super) fn has_names(sector: &Sector) -> bool {
    names(sector).any(|name| name.first() != Some(&REMOVED))
}

/// The same names without the places of removed ones between them; behind them, the folder ends.
pub(super) fn pack(sector: &Sector) -> Sector {
    let mut packed: Sector = [0; _];
    let kept = names(sector).filter(|name| name.first() != Some(&REMOVED));
    for (place, name) in packed.as_chunks_mut::<NAME>().0.iter_mut().zip(kept) {
        *place = *name;
    }
    packed
}

fn names(sector: &Sector) -> impl Iterator<Item = &[u8; NAME]> {
    sector.as_chunks::<NAME>().0.iter().take_while(|name| name.first() != Some(&0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(firsts: &[u8]) -> Sector {
        let mut sector = [0; _];
        for (place, first) in sector.as_chunks_mut::<NAME>().0.iter_mut().zip(firsts) {
            *place = [*first; NAME];
        }
        sector
    }

    #[test]
    fn names_move_together_in_their_order_and_nothing_is_left_behind_them() {
        let mixed = sector(&[b'a', REMOVED, b'b', REMOVED, REMOVED, b'c', REMOVED]);
        assert_eq!(pack(&mixed), sector(b"abc"));
        assert_eq!(pack(&sector(b"abc")), sector(b"abc"));
        let ended = sector(&[b'a', 0, b'b']);
        assert_eq!(pack(&ended), sector(b"a"), "what stands behind the end is no name");
    }

    #[test]
    fn a_sector_of_removed_names_has_none() {
        assert!(!has_names(&sector(&[REMOVED, REMOVED, 0, b'x'])) && !has_names(&sector(&[])));
        assert!(has_names(&sector(&[REMOVED, b'x'])));
    }
}
