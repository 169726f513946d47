//! docs/doctor.md has a section for each check, and no other.

use doctor::checks;

#[test]
fn each_check_is_documented() {
    let page = include_str!("../../../docs/doctor.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    let mut documented: Vec<_> = headings.collect();
    let all = checks::ALL.iter();
    let mut wanted: Vec<_> = all
        .map(|check| format!("{} {}", check.code, check.title))
        .collect();
    documented.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(documented, wanted);
}
