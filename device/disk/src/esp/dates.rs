//! The dates of the files on the boot partition. Never reads a clock: the first day that the file system knows stands for "unknown".

use fatfs::{Date, DateTime, Time, TimeProvider};

/// 1 January 1980 at midnight. Left to itself `fatfs` writes zeros, month 0 and day 0. UEFI firmware hands such a date out, but takes
/// none back (EDK II, `FatIsValidTime`), so the loader could not rename the file: no try would ever be counted.
#[derive(Debug)]
pub(super) struct FirstDay;

const DATE: Date = Date { year: 1980, month: 1, day: 1 };

impl TimeProvider for FirstDay {
    fn get_current_date(&self) -> Date {
        DATE
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: DATE, time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}
