//! Labels: their size, their place, their letters.

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::blend;
use crate::vision::BoundingBox;

const WEIGHT: FontWeight = FontWeight::Bold;
/// Drawn for a character that the font lacks.
const REPLACEMENT: char = '\u{fffd}';
/// A shorter label than this says nothing.
const FEWEST_CHARACTERS: usize = 3;

/// A size of letters: a bitmap font, magnified for large pictures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Font {
    raster: RasterHeight,
    zoom: u32,
}

/// Where a label's background lies, in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plate {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Plate {
    fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x + other.width
            && other.x < self.x + self.width
            && self.y < other.y + other.height
            && other.y < self.y + self.height
    }
}

impl Font {
    /// The letters for a picture of this size and the text shortened to fit; `None` when nothing
    /// legible fits. Letters are about a thirtieth of the shorter side, but at least 16 pixels.
    pub(super) fn fit(label: &str, (width, height): (u32, u32)) -> Option<(Self, String)> {
        let characters: Vec<char> =
            label.chars().filter(|character| !character.is_control()).collect();
        if characters.is_empty() {
            return None;
        }
        let mut font = match width.min(height) / 30 {
            0..32 => Self { raster: RasterHeight::Size16, zoom: 1 },
            wanted => Self { raster: RasterHeight::Size32, zoom: wanted / 32 },
        };
        while font.room(width) < characters.len() {
            font = match font {
                Self { raster, zoom: 2.. } => Self { raster, zoom: font.zoom - 1 },
                Self { raster: RasterHeight::Size32, .. } => {
                    Self { raster: RasterHeight::Size16, zoom: 1 }
                }
                smallest => {
                    font = smallest;
                    break;
                }
            };
        }
        let room = font.room(width);
        let fits = room >= characters.len().min(FEWEST_CHARACTERS);
        if !fits || font.plate_size("").1 > height {
            return None;
        }
        let text = match characters.len() {
            length if length <= room => characters.into_iter().collect(),
            _ => characters[..room - 2].iter().chain(&['.', '.']).collect(),
        };
        Some((font, text))
    }

    /// Free pixels between the plate's edge and the letters.
    fn padding(self) -> u32 {
        2 * self.zoom
    }

    /// Width of one letter.
    fn advance(self) -> u32 {
        get_raster_width(WEIGHT, self.raster) as u32 * self.zoom
    }

    /// How many letters fit into a plate of this width.
    fn room(self, width: u32) -> usize {
        (width.saturating_sub(2 * self.padding()) / self.advance()) as usize
    }

    /// Width and height of the plate for a text.
    pub(super) fn plate_size(self, text: &str) -> (u32, u32) {
        let letters = text.chars().count() as u32 * self.advance();
        let height = self.raster.val() as u32 * self.zoom;
        (letters + 2 * self.padding(), height + 2 * self.padding())
    }

    /// Draws the plate and, on it, the text in black or white, whichever is easier to read.
    pub(super) fn draw(self, canvas: &mut RgbImage, plate: &Plate, text: &str, colour: [u8; 3]) {
        for y in plate.y..plate.y + plate.height {
            for x in plate.x..plate.x + plate.width {
                canvas.put_pixel(x, y, Rgb(colour));
            }
        }
        let ink = ink_on(colour);
        let mut left = plate.x + self.padding();
        for character in text.chars() {
            self.draw_letter(canvas, (left, plate.y + self.padding()), character, ink);
            left += self.advance();
        }
    }

    fn draw_letter(
        self,
        canvas: &mut RgbImage,
        (left, top): (u32, u32),
        letter: char,
        ink: [u8; 3],
    ) {
        let raster = get_raster(letter, WEIGHT, self.raster);
        let Some(raster) = raster.or_else(|| get_raster(REPLACEMENT, WEIGHT, self.raster)) else {
            return;
        };
        for (row, y) in raster.rows().zip((top..).step_by(self.zoom as usize)) {
            for (intensity, x) in row.iter().zip((left..).step_by(self.zoom as usize)) {
                // 255 becomes 256 of 256 parts.
                let share = u32::from(*intensity) + u32::from(*intensity) / 128;
                for (dx, dy) in (0..self.zoom).flat_map(|dx| (0..self.zoom).map(move |dy| (dx, dy)))
                {
                    let pixel = canvas.get_pixel_mut(x + dx, y + dy);
                    *pixel = blend(*pixel, ink, share.min(256));
                }
            }
        }
    }
}

/// Black or white, whichever has more contrast with the colour (WCAG 2 relative luminance: equal
/// at 0.179).
fn ink_on(colour: [u8; 3]) -> [u8; 3] {
    let [red, green, blue] = colour.map(|channel| (f32::from(channel) / 255.0).powf(2.2));
    let luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    if luminance > 0.179 { [0; 3] } else { [255; 3] }
}

/// A place for a plate: at a corner of the box, above it before within and below it; else
/// anywhere in the picture, nearest to the box's top; on top of another plate only where the picture
/// is full. The plate fits into the picture.
pub(super) fn place(
    bbox: &BoundingBox,
    (width, height): (u32, u32),
    (picture_width, picture_height): (u32, u32),
    taken: &[Plate],
) -> Plate {
    let (most_x, most_y) = (picture_width - width, picture_height - height);
    // Casting clamps at 0 and makes 0 of NaN.
    let plate = |x: f32, y: f32| Plate {
        x: (x.round() as u32).min(most_x),
        y: (y.round() as u32).min(most_y),
        width,
        height,
    };
    let free = |plate: &Plate| !taken.iter().any(|other| plate.overlaps(other));
    let above = bbox.y1 - height as f32;
    let rows = [above, bbox.y1, bbox.y2, bbox.y2 - height as f32];
    let columns = [bbox.x1, bbox.x2 - width as f32];
    let beside = rows.iter().flat_map(|y| columns.iter().map(|x| plate(*x, *y)));
    if let Some(plate) = beside.into_iter().find(free) {
        return plate;
    }
    let wanted = plate(bbox.x1, above);
    let starts = |most: u32, step: u32| (0..=most).step_by(step as usize).chain([most]);
    let anywhere = starts(most_x, width.div_ceil(2))
        .chain([wanted.x])
        .flat_map(|x| starts(most_y, height).map(move |y| Plate { x, y, width, height }));
    let distance = |plate: &Plate| plate.x.abs_diff(wanted.x) + plate.y.abs_diff(wanted.y);
    anywhere.filter(free).min_by_key(distance).unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_stands_above_its_box_where_there_is_room() {
        let bbox = BoundingBox::new(30.0, 60.0, 90.0, 100.0);
        let plate = place(&bbox, (50, 20), (200, 200), &[]);
        assert_eq!(plate, Plate { x: 30, y: 40, width: 50, height: 20 });
        let at_the_top = BoundingBox::new(180.0, 5.0, 200.0, 100.0);
        let plate = place(&at_the_top, (50, 20), (200, 200), &[]);
        assert_eq!(plate, Plate { x: 150, y: 0, width: 50, height: 20 });
    }

    #[test]
    fn many_labels_of_one_box_do_not_overlap() {
        let bbox = BoundingBox::new(30.0, 60.0, 90.0, 100.0);
        let mut plates: Vec<Plate> = Vec::new();
        for _ in 0..20 {
            let plate = place(&bbox, (50, 20), (200, 200), &plates);
            assert!(!plates.iter().any(|other| plate.overlaps(other)), "{plates:?}");
            plates.push(plate);
        }
    }

    #[test]
    fn long_labels_are_shortened_and_hopeless_ones_left_out() {
        let (font, text) = Font::fit("Manchester United Football Club", (120, 90)).unwrap();
        assert!(text.ends_with("..") && text.starts_with("Manch"), "{text}");
        assert!(font.plate_size(&text).0 <= 120);
        assert!(Font::fit("Manchester", (20, 90)).is_none());
        assert!(Font::fit("Manchester", (120, 15)).is_none());
        assert!(Font::fit("", (120, 90)).is_none());
        let (large, text) = Font::fit("LeBron James", (4000, 3000)).unwrap();
        assert_eq!((large.plate_size(&text).1, text.as_str()), (3 * (32 + 4), "LeBron James"));
    }

    #[test]
    fn ink_contrasts() {
        assert_eq!(ink_on([240, 228, 66]), [0; 3]);
        assert_eq!(ink_on([0, 80, 130]), [255; 3]);
    }

    proptest! {
        #[test]
        fn plates_lie_in_the_picture(
            edges in proptest::array::uniform4(-300.0f32..500.0),
            count in 1usize..30,
        ) {
            let bbox = BoundingBox::new(edges[0], edges[1], edges[2], edges[3]);
            let mut plates = Vec::new();
            for _ in 0..count {
                let plate = place(&bbox, (60, 20), (131, 97), &plates);
                prop_assert!(plate.x + plate.width <= 131 && plate.y + plate.height <= 97);
                plates.push(plate);
            }
        }
    }
}
