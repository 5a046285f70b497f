//! Predicted work of requests, from what their roles say.
//!
//! What depends on the picture alone (the trunks of entailer and grounder, the segmenter's encoder)
//! is done once per picture however many entities there are, and is charged so.

use super::{Request, Roles, SegmentRequest, Task};
use crate::batch::Cost;
use crate::models::TagInput;
use crate::vision::Picture;

/// Entities charged before the text was tagged.
const ENTITIES_EXPECTED: usize = 1;

/// What it costs to bring a mask to the size of a picture, per megapixel. Measured with nano on two
/// cores: 2.6 ms to decode a mask, which is priced 47, and 1.7 ms more per megapixel.
const UPSCALING_PER_MEGAPIXEL: u64 = 31;

/// An expression of ordinary length, to price an entity that is not known yet.
const TYPICAL_EXPRESSION: &str = "LeBron James (PER)-an athlete";

/// What work is charged for.
#[derive(Clone)]
pub(super) struct Prices {
    roles: Roles,
}

impl Prices {
    pub fn new(roles: Roles) -> Self {
        Self { roles }
    }

    /// What a request is charged when it comes: its text, its picture, and one entity where it is
    /// not known yet how many there are.
    pub fn request(&self, request: &Request) -> Cost {
        let given = request.options.entities.as_ref().map(Vec::len);
        let tagging = match given {
            Some(_) => Cost::ZERO,
            None => Cost(self.roles.tagger.cost(&TagInput {
                text: request.text.clone(),
                knowledge: request.options.knowledge.clone(),
            })),
        };
        let picture = match &request.picture {
            Some(_) => self.picture(request.options.task),
            None => Cost::ZERO,
        };
        tagging + picture + self.entities(request, given.unwrap_or(ENTITIES_EXPECTED))
    }

    /// What the entities beyond those charged at the door cost.
    pub fn further_entities(&self, request: &Request, found: usize) -> Cost {
        match request.options.entities {
            Some(_) => Cost::ZERO,
            None => self.entities(request, found.saturating_sub(ENTITIES_EXPECTED)),
        }
    }

    /// What boxes of one picture cost.
    pub fn boxes(&self, request: &SegmentRequest) -> Cost {
        self.encoding() + self.mask(&request.picture).times(request.boxes.len())
    }

    /// The least that is charged for anything with a picture: one word, one entity and no mask, or
    /// one box.
    pub fn least_with_picture(&self) -> Cost {
        let word = TagInput { text: "a".into(), knowledge: None };
        let tagging = Cost(self.roles.tagger.cost(&word));
        let post = tagging + self.picture(Task::Gmner) + self.finding(None);
        post.min(self.encoding() + self.decoding())
    }

    fn encoding(&self) -> Cost {
        Cost(self.roles.segmenter.encode_cost())
    }

    fn decoding(&self) -> Cost {
        Cost(self.roles.segmenter.decode_cost())
    }

    /// What depends on the picture alone.
    fn picture(&self, task: Task) -> Cost {
        let entailer = Cost(self.roles.entailer.picture_cost());
        let looking = match self.roles.look_once() {
            true => entailer,
            false => entailer + Cost(self.roles.grounder.picture_cost()),
        };
        match task {
            Task::Mner => Cost::ZERO,
            Task::Gmner => looking,
            Task::Smner => looking + self.encoding(),
        }
    }

    /// What `count` entities of this request cost beyond its picture.
    fn entities(&self, request: &Request, count: usize) -> Cost {
        let Some(picture) = &request.picture else { return Cost::ZERO };
        let finding = self.finding(request.options.image_description.as_deref());
        let entity = match request.options.task {
            Task::Mner => Cost::ZERO,
            Task::Gmner => finding,
            Task::Smner => finding + self.mask(picture),
        };
        entity.times(count)
    }

    /// What it costs to find one entity in a picture.
    fn finding(&self, description: Option<&str>) -> Cost {
        let entailing = Cost(self.roles.entailer.cost(TYPICAL_EXPRESSION, description));
        entailing + Cost(self.roles.grounder.cost(TYPICAL_EXPRESSION))
    }

    /// What one mask of a picture costs.
    fn mask(&self, picture: &Picture) -> Cost {
        let pixels = u64::from(picture.width()) * u64::from(picture.height());
        self.decoding() + Cost(pixels * UPSCALING_PER_MEGAPIXEL / 1_000_000)
    }
}
