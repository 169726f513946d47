//! A table. On a narrow screen each row becomes a card.

use maud::{Markup, html};

/// A table below a heading of the page, which names it.
pub struct Table<'a> {
    /// The id of the heading.
    pub heading: &'a str,
    /// Whether it scrolls in a box of its own if it is long.
    pub is_boxed: bool,
    pub columns: &'a [Column],
}

/// The heading of a column, and the form of its cells.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    Text(&'static str),
    /// Aligned to the right.
    Number(&'static str),
    /// Filled as a bar.
    Bar(&'static str),
}

pub struct Row {
    /// The name of the row: the cell of the first column.
    pub name: Markup,
    /// The tooltip of the name.
    pub hint: Option<String>,
    /// The cells of the other columns. Missing or empty cells are not shown on a narrow screen.
    pub cells: Vec<Markup>,
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Text(title) | Self::Number(title) | Self::Bar(title) => title,
        }
    }

    fn class(self) -> Option<&'static str> {
        match self {
            Self::Text(_) => None,
            Self::Number(_) => Some("number"),
            Self::Bar(_) => Some("bar"),
        }
    }
}

impl Table<'_> {
    pub fn of(&self, rows: &[Row]) -> Markup {
        if rows.is_empty() {
            return html! { p .none { "None." } };
        }
        html! {
            div .scroll .box[self.is_boxed] tabindex="0" role="group" aria-labelledby=(self.heading) {
                table {
                    thead {
                        tr {
                            @for column in self.columns {
                                th scope="col" class=[column.class()] { (column.title()) }
                            }
                        }
                    }
                    tbody { @for row in rows { (self.row(row)) } }
                }
            }
        }
    }

    fn row(&self, row: &Row) -> Markup {
        let cell = |n: usize| row.cells.get(n).map_or("", |cell| cell.0.as_str());
        html! {
            tr {
                th scope="row" title=[&row.hint] { (row.name) }
                @for (n, column) in self.columns.iter().skip(1).enumerate() {
                    td class=[column.class()] data-title=(column.title()) { (maud::PreEscaped(cell(n))) }
                }
            }
        }
    }
}
