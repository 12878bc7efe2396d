//! QR codes: as text for a terminal, and as SVG for a page.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code: scanners need four.
const QUIET: usize = 4;

/// A QR code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qr {
    width: usize,
    dark: Vec<bool>,
}

impl Qr {
    /// The code of a text, of medium error correction: up to 2,331 bytes.
    ///
    /// # Errors
    /// When the text is longer.
    pub fn new(text: &str) -> Result<Qr, TooLong> {
        let code = QrCode::with_error_correction_level(text, EcLevel::M).map_err(|_| TooLong)?;
        Ok(Qr {
            width: code.width(),
            dark: code.to_colors().into_iter().map(|color| color == Color::Dark).collect(),
        })
    }

    /// How many modules it is wide, without the light edge.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether the module at this column and row is dark; light outside.
    pub fn is_dark(&self, column: usize, row: usize) -> bool {
        column < self.width && self.dark.get(row * self.width + column).copied().unwrap_or(false)
    }

    fn with_edge(&self, column: usize, row: usize) -> bool {
        match (column.checked_sub(QUIET), row.checked_sub(QUIET)) {
            (Some(column), Some(row)) => row < self.width && self.is_dark(column, row),
            _ => false,
        }
    }

    /// As lines of text, two modules to a character. Light modules are drawn, dark ones left blank, as fits a dark terminal;
    /// with `inverted` the other way round. Scanners read both.
    pub fn text(&self, inverted: bool) -> String {
        let side = self.width + 2 * QUIET;
        let mut text = String::with_capacity(side * side * 2);
        for row in (0..side).step_by(2) {
            for column in 0..side {
                let drawn = |row: usize| row < side && self.with_edge(column, row) == inverted;
                text.push(match (drawn(row), drawn(row + 1)) {
                    (true, true) => '\u{2588}',
                    (true, false) => '\u{2580}',
                    (false, true) => '\u{2584}',
                    (false, false) => ' ',
                });
            }
            text.push('\n');
        }
        text
    }

    /// As an SVG document, four units to a module, black on white.
    pub fn svg(&self) -> String {
        let side = self.width + 2 * QUIET;
        let pixels = side * 4;
        let mut path = String::new();
        for row in 0..side {
            let mut column = 0;
            while column < side {
                let run = (column..side).take_while(|c| self.with_edge(*c, row)).count();
                if run > 0 {
                    path.push_str(&format!("M{column} {row}h{run}v1h-{run}z"));
                }
                column += run.max(1);
            }
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{pixels}\" height=\"{pixels}\" viewBox=\"0 0 {side} {side}\" \
             shape-rendering=\"crispEdges\"><path fill=\"#fff\" d=\"M0 0h{side}v{side}h-{side}z\"/>\
             <path fill=\"#000\" d=\"{path}\"/></svg>\n"
        )
    }
}

/// The text is longer than a QR code can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is longer than a QR code can hold")]
pub struct TooLong;
