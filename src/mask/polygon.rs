//! Masks as polygons with holes, along the edges of pixels.
//!
//! Filling the polygons by the even–odd rule gives back exactly the same mask. One polygon is one
//! 4-connected group of pixels, so groups that touch at a corner only are two polygons; a ring
//! may touch itself at a corner but never crosses itself.

use std::collections::HashMap;

use super::rle::{Rle, Strip};

/// A corner of pixels: `[x, y]`, where `[0, 0]` is the picture's top left corner and
/// `[width, height]` its bottom right one.
pub type Point = [u32; 2];

/// One connected part of a mask.
///
/// The coordinates are those of a GeoJSON `Polygon`: the outer ring first, then the holes; every
/// ring repeats its first point at the end; seen on the screen (y grows downwards) the outer ring
/// runs clockwise and holes counterclockwise. Corners only: neighbouring edges meet at right
/// angles. A list of polygons thus has the form of GeoJSON `MultiPolygon` coordinates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polygon {
    /// The outer ring, then the rings of the holes.
    pub rings: Vec<Vec<Point>>,
}

impl Rle {
    /// The mask's polygons, ordered by their outer ring's leftmost, then topmost corner; none for
    /// an empty mask. Time and memory grow with the length of the outlines.
    pub fn to_polygons(&self) -> Vec<Polygon> {
        let strips: Vec<Strip> = self.strips().collect();
        let groups = connect(&strips);
        let edges = outline(&strips, &groups);
        let mut polygons: Vec<Polygon> = Vec::new();
        let mut polygon_of: HashMap<usize, usize> = HashMap::new();
        for (group, ring) in trace(&edges) {
            // Edges are traced from the left, so a group's first ring is its outer one.
            let index = *polygon_of.entry(group).or_insert_with(|| {
                polygons.push(Polygon { rings: Vec::new() });
                polygons.len() - 1
            });
            polygons[index].rings.push(ring);
        }
        polygons
    }
}

/// The index of the first strip after column `x` of the strip at `start`.
fn column_end(strips: &[Strip], start: usize) -> usize {
    start + strips[start..].iter().take_while(|strip| strip.x == strips[start].x).count()
}

/// For every strip the group that it belongs to: strips of neighbouring columns that share an edge.
fn connect(strips: &[Strip]) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..strips.len()).collect();
    let (mut left, mut start) = (0..0, 0);
    while start < strips.len() {
        let right = start..column_end(strips, start);
        let (mut a, mut b) = (left.start, right.start);
        while a < left.end && b < right.end && strips[a].x + 1 == strips[b].x {
            if strips[a].top < strips[b].bottom && strips[b].top < strips[a].bottom {
                let (root_a, root_b) = (root(&mut parent, a), root(&mut parent, b));
                parent[root_a.max(root_b)] = root_a.min(root_b);
            }
            if strips[a].bottom <= strips[b].bottom { a += 1 } else { b += 1 }
        }
        start = right.end;
        left = right;
    }
    (0..strips.len()).map(|strip| root(&mut parent, strip)).collect()
}

/// The group's first strip; halves the path on the way.
fn root(parent: &mut [usize], mut strip: usize) -> usize {
    while parent[strip] != strip {
        parent[strip] = parent[parent[strip]];
        strip = parent[strip];
    }
    strip
}

/// A piece of a group's outline, with the mask on its right hand as one walks.
#[derive(Debug, Clone, Copy)]
struct Edge {
    from: Point,
    to: Point,
    group: usize,
}

/// All edges of all groups, sorted by where they start. Where two edges start at one point, four
/// meet there.
fn outline(strips: &[Strip], groups: &[usize]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (strip, group) in strips.iter().zip(groups) {
        let (left, right) = (strip.x, strip.x + 1);
        edges.push(Edge { from: [left, strip.top], to: [right, strip.top], group: *group });
        edges.push(Edge { from: [right, strip.bottom], to: [left, strip.bottom], group: *group });
    }
    let mut start = 0;
    let mut left = 0..0;
    while start < strips.len() {
        let right = start..column_end(strips, start);
        let x = strips[start].x;
        let adjacent = strips.get(left.start).is_some_and(|strip| strip.x + 1 == x);
        if adjacent {
            vertical_edges(x, left.clone(), right.clone(), (strips, groups), &mut edges);
        } else {
            vertical_edges(x, 0..0, right.clone(), (strips, groups), &mut edges);
        }
        let next = strips.get(right.end).map(|strip| strip.x);
        if next != Some(x + 1) {
            vertical_edges(x + 1, right.clone(), 0..0, (strips, groups), &mut edges);
        }
        start = right.end;
        left = right;
    }
    edges.sort_unstable_by_key(|edge| edge.from);
    edges
}

/// The edges between two columns: down where only the left one is inside, up where only the right
/// one is.
fn vertical_edges(
    x: u32,
    left: std::ops::Range<usize>,
    right: std::ops::Range<usize>,
    (strips, groups): (&[Strip], &[usize]),
    edges: &mut Vec<Edge>,
) {
    let (mut a, mut b) = (left.clone(), right.clone());
    let (mut l, mut r) = (a.next(), b.next());
    let mut y = 0;
    loop {
        let top = |strip: Option<usize>| strip.map_or(u32::MAX, |strip| strips[strip].top.max(y));
        let (left_top, right_top) = (top(l), top(r));
        let start = left_top.min(right_top);
        if start == u32::MAX {
            return;
        }
        // The next place where either column goes from inside to outside or back.
        let end = |strip: Option<usize>, top: u32| match strip {
            Some(strip) if top == start => strips[strip].bottom,
            _ => top,
        };
        let stop = end(l, left_top).min(end(r, right_top));
        match (l.filter(|_| left_top == start), r.filter(|_| right_top == start)) {
            (Some(inside), None) => {
                edges.push(Edge { from: [x, start], to: [x, stop], group: groups[inside] });
            }
            (None, Some(inside)) => {
                edges.push(Edge { from: [x, stop], to: [x, start], group: groups[inside] });
            }
            _ => {}
        }
        y = stop;
        l = if l.is_some_and(|strip| strips[strip].bottom <= y) { a.next() } else { l };
        r = if r.is_some_and(|strip| strips[strip].bottom <= y) { b.next() } else { r };
    }
}

/// Walks the edges until each was used once: closed rings with their group, in order of their
/// leftmost, then topmost corner.
fn trace(edges: &[Edge]) -> Vec<(usize, Vec<Point>)> {
    let mut used = vec![false; edges.len()];
    let mut rings = Vec::new();
    for first in 0..edges.len() {
        if used[first] {
            continue;
        }
        // The leftmost, topmost point of a ring always is a corner, so the last step adds it again
        // and closes the ring.
        let mut ring = vec![edges[first].from];
        let mut current = first;
        loop {
            used[current] = true;
            let next = follow(edges, current);
            if direction(&edges[next]) != direction(&edges[current]) {
                ring.push(edges[current].to);
            }
            if next == first {
                break;
            }
            current = next;
        }
        rings.push((edges[first].group, ring));
    }
    rings
}

/// The edge that continues another one. Where four meet, the right turn: it stays with the same
/// pixel, so pixels that touch at this corner only stay apart.
fn follow(edges: &[Edge], current: usize) -> usize {
    let at = edges[current].to;
    let start = edges.partition_point(|edge| edge.from < at);
    let (dx, dy) = direction(&edges[current]);
    let right_turn = (-dy, dx);
    match edges.get(start + 1) {
        Some(second) if second.from == at && direction(second) == right_turn => start + 1,
        _ => start,
    }
}

/// The signs of an edge's way in x and y.
fn direction(edge: &Edge) -> (i8, i8) {
    let sign = |from: u32, to: u32| i8::from(to > from) - i8::from(to < from);
    (sign(edge.from[0], edge.to[0]), sign(edge.from[1], edge.to[1]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn polygons(rows: &[&str]) -> Vec<Vec<Vec<Point>>> {
        let bitmap: Vec<u8> = rows.concat().bytes().map(|pixel| u8::from(pixel == b'#')).collect();
        let rle = Rle::from_bitmap(&bitmap, rows[0].len() as u32, rows.len() as u32).unwrap();
        rle.to_polygons().into_iter().map(|polygon| polygon.rings).collect()
    }

    #[test]
    fn a_rectangle_has_four_corners() {
        let expected: Vec<Vec<Vec<Point>>> =
            vec![vec![vec![[1, 1], [3, 1], [3, 3], [1, 3], [1, 1]]]];
        assert_eq!(polygons(&["....", ".##.", ".##."]), expected);
        assert!(polygons(&["....", "...."]).is_empty());
    }

    #[test]
    fn a_hole_follows_its_outer_ring_the_other_way_round() {
        let expected: Vec<Vec<Vec<Point>>> = vec![vec![
            vec![[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]],
            vec![[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]],
        ]];
        assert_eq!(polygons(&["###", "#.#", "###"]), expected);
    }

    #[test]
    fn pixels_that_touch_at_a_corner_are_two_polygons() {
        for rows in [["#.", ".#"], [".#", "#."]] {
            let polygons = polygons(&rows);
            assert_eq!(polygons.len(), 2);
            assert!(polygons.iter().all(|rings| rings.len() == 1 && rings[0].len() == 5));
        }
    }

    #[test]
    fn a_part_inside_a_hole_is_a_polygon_of_its_own() {
        let polygons = polygons(&["#####", "#...#", "#.#.#", "#...#", "#####"]);
        assert_eq!(polygons.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }

    /// Twice the area inside, positive where the ring runs clockwise on the screen.
    fn doubled_area(ring: &[Point]) -> i64 {
        let cross = |pair: &[Point]| {
            let [[x1, y1], [x2, y2]] = [pair[0], pair[1]].map(|point| point.map(i64::from));
            x1 * y2 - x2 * y1
        };
        ring.windows(2).map(cross).sum()
    }

    /// Fills by the even–odd rule: a pixel is inside when a ray to its left crosses the outline
    /// an odd number of times.
    fn filled(polygons: &[Polygon], width: u32, height: u32) -> Vec<u8> {
        let mut bitmap = vec![0; (width * height) as usize];
        for ring in polygons.iter().flat_map(|polygon| &polygon.rings) {
            for pair in ring.windows(2).filter(|pair| pair[0][0] == pair[1][0]) {
                for y in pair[0][1].min(pair[1][1])..pair[0][1].max(pair[1][1]) {
                    for x in pair[0][0]..width {
                        bitmap[(y * width + x) as usize] ^= 1;
                    }
                }
            }
        }
        bitmap
    }

    fn any_bitmap() -> impl Strategy<Value = (u32, u32, Vec<u8>)> {
        (1u32..14, 1u32..14, 1u8..6).prop_flat_map(|(width, height, density)| {
            let pixel = (0u8..6).prop_map(move |value| u8::from(value < density));
            let pixels = proptest::collection::vec(pixel, (width * height) as usize);
            (Just(width), Just(height), pixels)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn filling_gives_back_the_mask((width, height, bitmap) in any_bitmap()) {
            let polygons = Rle::from_bitmap(&bitmap, width, height).unwrap().to_polygons();
            prop_assert_eq!(filled(&polygons, width, height), bitmap);
            for polygon in &polygons {
                prop_assert!(doubled_area(&polygon.rings[0]) > 0);
                for (index, ring) in polygon.rings.iter().enumerate() {
                    prop_assert_eq!(doubled_area(ring) > 0, index == 0);
                    prop_assert_eq!(ring.first(), ring.last());
                    for triple in ring.windows(3) {
                        let straight = triple[0][0] == triple[1][0];
                        prop_assert_eq!(straight, triple[1][1] == triple[2][1]);
                    }
                }
            }
        }
    }
}
