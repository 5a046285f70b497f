//! Masks, boxes and labels drawn on a copy of a picture, for people to look at.

mod label;

use image::{ImageFormat, Rgb, RgbImage};

use self::label::{Font, Plate, place};
use crate::mask::Rle;
use crate::vision::{BoundingBox, Picture};

/// One entity to draw.
#[derive(Debug, Clone)]
pub struct OverlayItem<'a> {
    /// The text beside the box, e.g. `LeBron James · PER 0.98`; none is drawn when empty. Characters
    /// beyond Latin are drawn as a replacement sign.
    pub label: String,
    /// Its box in pixels of the picture; what lies outside the picture is not drawn.
    pub bbox: BoundingBox,
    /// Its mask, of the picture's size.
    pub mask: Option<&'a Rle>,
}

/// Why nothing was drawn.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A mask is not as large as the picture.
    #[error("a mask of {mask:?} pixels does not fit a picture of {picture:?}")]
    MaskSize {
        /// Width and height of the mask.
        mask: (u32, u32),
        /// Width and height of the picture.
        picture: (u32, u32),
    },
    /// The PNG encoder failed.
    #[error("encoding the overlay: {0}")]
    Encode(#[from] image::ImageError),
}

/// Seven colours that remain distinct to colour-blind eyes (Okabe and Ito, "Color Universal
/// Design", 2008); the eighth entity starts again.
const COLOURS: [[u8; 3]; 7] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
];
/// Share of the colour in a mask's pixels, of 256.
const MASK_SHARE: u32 = 115;

/// Draws the items on a copy of the picture, the first ones on top, and returns a PNG file.
///
/// # Errors
/// [`OverlayError`]
pub fn overlay_png(picture: &Picture, items: &[OverlayItem]) -> Result<Vec<u8>, OverlayError> {
    let mut file = std::io::Cursor::new(Vec::new());
    draw(picture, items)?.write_to(&mut file, ImageFormat::Png)?;
    Ok(file.into_inner())
}

/// Draws the items on a copy of the picture, the first ones on top: masks first, then boxes, then
/// labels, so that no label is hidden.
///
/// # Errors
/// [`OverlayError::MaskSize`]
pub fn draw(picture: &Picture, items: &[OverlayItem]) -> Result<RgbImage, OverlayError> {
    let mut canvas = RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let start = 3 * (y as usize * picture.width() as usize + x as usize);
        Rgb([picture.rgb()[start], picture.rgb()[start + 1], picture.rgb()[start + 2]])
    });
    let coloured = || items.iter().zip(COLOURS.into_iter().cycle());
    for (item, colour) in coloured().collect::<Vec<_>>().into_iter().rev() {
        if let Some(mask) = item.mask {
            tint(&mut canvas, mask, colour)?;
        }
    }
    for (item, colour) in coloured().collect::<Vec<_>>().into_iter().rev() {
        frame(&mut canvas, &item.bbox, colour);
    }
    let mut plates: Vec<Plate> = Vec::new();
    for (item, colour) in coloured() {
        let Some((font, text)) = Font::fit(&item.label, canvas.dimensions()) else { continue };
        let plate = place(&item.bbox, font.plate_size(&text), canvas.dimensions(), &plates);
        font.draw(&mut canvas, &plate, &text, colour);
        plates.push(plate);
    }
    Ok(canvas)
}

/// Blends a colour into the mask's pixels.
fn tint(canvas: &mut RgbImage, mask: &Rle, colour: [u8; 3]) -> Result<(), OverlayError> {
    let size = (mask.width(), mask.height());
    if size != canvas.dimensions() {
        return Err(OverlayError::MaskSize { mask: size, picture: canvas.dimensions() });
    }
    for (pixel, inside) in canvas.pixels_mut().zip(mask.to_bitmap()) {
        if inside != 0 {
            *pixel = blend(*pixel, colour, MASK_SHARE);
        }
    }
    Ok(())
}

/// `share` of 256 parts of the colour over the pixel.
fn blend(pixel: Rgb<u8>, colour: [u8; 3], share: u32) -> Rgb<u8> {
    let mix = |below: u8, above: u8| {
        ((u32::from(below) * (256 - share) + u32::from(above) * share + 128) / 256) as u8
    };
    let [red, green, blue] = pixel.0;
    Rgb([mix(red, colour[0]), mix(green, colour[1]), mix(blue, colour[2])])
}

/// Draws a box's outline just inside its edges, with a dark line within for bright backgrounds.
fn frame(canvas: &mut RgbImage, bbox: &BoundingBox, colour: [u8; 3]) {
    let (width, height) = canvas.dimensions();
    let Some(inside) = bbox.clip(width, height) else { return };
    let thickness = (width.min(height) / 240).clamp(2, 8);
    let edge = |position: f32, size: u32| (position.round() as u32).min(size);
    let (left, right) = (edge(inside.x1, width), edge(inside.x2, width));
    let (top, bottom) = (edge(inside.y1, height), edge(inside.y2, height));
    for y in top..bottom {
        let from_row = (y - top).min(bottom - 1 - y);
        for x in left..right {
            let depth = from_row.min(x - left).min(right - 1 - x);
            if depth < thickness {
                canvas.put_pixel(x, y, Rgb(colour));
            } else if depth == thickness {
                canvas.put_pixel(x, y, Rgb([0, 0, 0]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grey(width: u32, height: u32) -> Picture {
        Picture::from_rgb(width, height, vec![100; (3 * width * height) as usize]).unwrap()
    }

    fn item<'a>(label: &str, edges: [f32; 4], mask: Option<&'a Rle>) -> OverlayItem<'a> {
        let [x1, y1, x2, y2] = edges;
        OverlayItem { label: label.into(), bbox: BoundingBox::new(x1, y1, x2, y2), mask }
    }

    #[test]
    fn a_mask_tints_its_pixels_only() {
        let bitmap: Vec<u8> = (0..40 * 30).map(|index| u8::from(index % 40 < 7)).collect();
        let mask = Rle::from_bitmap(&bitmap, 40, 30).unwrap();
        let drawn = draw(&grey(40, 30), &[item("", [0.0; 4], Some(&mask))]).unwrap();
        for (x, _, pixel) in drawn.enumerate_pixels() {
            let tinted = blend(Rgb([100; 3]), COLOURS[0], MASK_SHARE);
            assert_eq!(*pixel, if x < 7 { tinted } else { Rgb([100; 3]) });
        }
    }

    #[test]
    fn a_mask_of_another_size_is_an_error() {
        let mask = Rle::from_counts(&[12], 4, 3).unwrap();
        let result = overlay_png(&grey(40, 30), &[item("", [0.0; 4], Some(&mask))]);
        assert!(matches!(result, Err(OverlayError::MaskSize { mask: (4, 3), .. })));
    }

    #[test]
    fn a_box_is_drawn_along_its_edges_inside_the_picture() {
        let items = [item("", [-5.0, 10.0, 20.0, 90.0], None), item("", [30.0; 4], None)];
        let drawn = draw(&grey(60, 50), &items).unwrap();
        assert_eq!(drawn.get_pixel(0, 10), &Rgb(COLOURS[0]));
        assert_eq!(drawn.get_pixel(19, 49), &Rgb(COLOURS[0]));
        assert_eq!(drawn.get_pixel(10, 11), &Rgb(COLOURS[0]));
        for (x, y) in [(10, 9), (20, 30), (10, 30), (30, 30)] {
            assert_eq!(drawn.get_pixel(x, y), &Rgb([100; 3]), "{x}, {y}");
        }
    }

    #[test]
    fn entities_have_different_colours_and_the_first_is_on_top() {
        let edges = [5.0, 5.0, 50.0, 40.0];
        let items = [item("", edges, None), item("", [5.0, 5.0, 55.0, 45.0], None)];
        let drawn = draw(&grey(60, 50), &items).unwrap();
        assert_eq!(drawn.get_pixel(5, 5), &Rgb(COLOURS[0]));
        assert_eq!(drawn.get_pixel(54, 44), &Rgb(COLOURS[1]));
    }

    #[test]
    fn a_label_has_text_on_a_plate_of_the_entitys_colour() {
        let drawn = draw(&grey(200, 100), &[item("Zoë", [20.0, 50.0, 90.0, 90.0], None)]).unwrap();
        let above = || drawn.enumerate_pixels().filter(|(_, y, _)| *y < 50);
        assert!(above().filter(|(_, _, pixel)| pixel.0 == COLOURS[0]).count() > 200, "plate");
        let dark = |pixel: &Rgb<u8>| pixel.0.iter().all(|channel| *channel < 80);
        assert!(above().filter(|(_, _, pixel)| dark(pixel)).count() > 30, "letters");
    }

    #[test]
    fn the_file_is_a_png_of_the_pictures_size() {
        let picture = grey(33, 21);
        let file = overlay_png(&picture, &[]).unwrap();
        let read = image::load_from_memory_with_format(&file, ImageFormat::Png).unwrap();
        assert_eq!(read.into_rgb8().into_raw(), picture.rgb());
    }

    proptest! {
        #[test]
        fn any_boxes_and_labels_can_be_drawn(
            (width, height) in (1u32..150, 1u32..150),
            items in proptest::collection::vec(
                (".{0,30}", proptest::array::uniform4(-100.0f32..300.0)), 0..9),
        ) {
            let items: Vec<OverlayItem> =
                items.iter().map(|(label, edges)| item(label, *edges, None)).collect();
            let drawn = draw(&grey(width, height), &items).unwrap();
            prop_assert_eq!(drawn.dimensions(), (width, height));
        }
    }
}
