//! Stage 1: find the entities of the text and write a referring expression for each.

use std::sync::Arc;

use super::progress::Passage;
use super::{Entity, GivenEntity, Pipeline, PipelineError, Provenance, Request};
use crate::models::{CharSpan, ExpandInput, TagInput, TaggedEntity};

/// What stage 1 finds.
pub(super) struct Recognized {
    /// The entities, in the order of the text.
    pub entities: Vec<Entity>,
    /// Where the auxiliary words came from.
    pub provenance: Provenance,
}

/// One entity of the text.
struct Found {
    entity: Entity,
    /// Where its expression came from.
    expression_from: &'static str,
}

impl Pipeline {
    /// Tags the text (or takes the caller's entities) and expands each entity.
    pub(super) async fn recognize(
        &self,
        request: &Request,
        passage: &mut Passage<'_>,
    ) -> Result<Recognized, PipelineError> {
        let words = TextByChars::new(&request.text);
        let found: Vec<_> = match &request.options.entities {
            Some(given) => given.iter().map(|entity| self.adopt(entity, request, &words)).collect(),
            None => {
                let tagged = self.tag(request, passage).await?;
                tagged.into_iter().map(|entity| self.expand(entity, request, &words)).collect()
            }
        };
        self.refuse_too_many(found.len())?;
        let provenance = provenance(request, &found);
        let entities = found.into_iter().map(|found| found.entity).collect();
        Ok(Recognized { entities, provenance })
    }

    async fn tag(
        &self,
        request: &Request,
        passage: &mut Passage<'_>,
    ) -> Result<Vec<TaggedEntity>, PipelineError> {
        let input =
            TagInput { text: request.text.clone(), knowledge: request.options.knowledge.clone() };
        let reply = self.stages.tagger.submit(input, passage.context).await?;
        passage.timings.recognize += reply.executed;
        passage.timings.queue += reply.queued;
        Ok(reply.output)
    }

    fn expand(&self, tagged: TaggedEntity, request: &Request, words: &TextByChars) -> Found {
        let input = ExpandInput {
            text: request.text.clone(),
            entity: words.slice(tagged.span),
            span: tagged.span,
            kind: tagged.kind,
            fine: tagged.fine,
        };
        let expander = &self.stages.expander;
        let expression = referring_expression(&input, &expander.expand(&input));
        let expression_from = expander.provenance(&input);
        let ExpandInput { entity: text, span, kind, fine, .. } = input;
        let entity = Entity {
            text,
            span,
            kind,
            score: tagged.score,
            fine,
            expression,
            entailment_score: None,
            grounded: None,
        };
        Found { entity, expression_from }
    }

    /// Takes over an entity that the caller brought along.
    fn adopt(&self, given: &GivenEntity, request: &Request, words: &TextByChars) -> Found {
        let tagged = TaggedEntity { span: given.span, kind: given.kind, score: 1.0, fine: None };
        let mut found = self.expand(tagged, request, words);
        if let Some(expression) = &given.expression {
            found.entity.expression = expression.to_string();
            found.expression_from = "caller";
        }
        found
    }

    fn refuse_too_many(&self, found: usize) -> Result<(), PipelineError> {
        let limit = self.options.max_entities;
        if found > limit {
            return Err(PipelineError::TooManyEntities { found, limit });
        }
        Ok(())
    }
}

/// `LeBron James (PER)-an athlete`: the paper's form, as RiVEG's code joins it (models.md 3), with
/// a space before the parenthesis for readers.
fn referring_expression(input: &ExpandInput, expansion: &str) -> String {
    format!("{} ({})-{expansion}", input.entity, input.kind)
}

/// Where the auxiliary words of this answer came from. Entities may differ in where their
/// expression came from: the weakest source among them is reported.
fn provenance(request: &Request, found: &[Found]) -> Provenance {
    let given = |words: &Option<Arc<str>>| if words.is_some() { "caller" } else { "none" };
    let from = |source: &str| found.iter().any(|f| f.expression_from == source);
    let expression = ["type", "fine_type", "caller"].into_iter().find(|&source| from(source));
    Provenance {
        knowledge: given(&request.options.knowledge),
        image_description: given(&request.options.image_description),
        expression: expression.unwrap_or("none"),
    }
}

/// A text that can be cut by code points: the wire format's offsets are code points, Rust's bytes.
struct TextByChars<'a> {
    text: &'a str,
    /// Byte offset of every code point, and the text's length at the end.
    offsets: Vec<usize>,
}

impl<'a> TextByChars<'a> {
    fn new(text: &'a str) -> Self {
        let ends = std::iter::once(text.len());
        Self { text, offsets: text.char_indices().map(|(at, _)| at).chain(ends).collect() }
    }

    fn slice(&self, span: CharSpan) -> String {
        let at =
            |char_index: usize| self.offsets.get(char_index).copied().unwrap_or(self.text.len());
        self.text.get(at(span.start)..at(span.end)).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_by_code_points() {
        let text = TextByChars::new("Žofie 👩‍🚀 in Łódź");
        assert_eq!(text.slice(CharSpan { start: 0, end: 5 }), "Žofie");
        assert_eq!(text.slice(CharSpan { start: 13, end: 17 }), "Łódź");
        assert_eq!(text.slice(CharSpan { start: 17, end: 17 }), "");
    }
}
