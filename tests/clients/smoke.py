"""The calls of a user of the generated Python client: `smoke.py URL PICTURE`."""

import base64
import sys
from pathlib import Path

from riveg_client import Client
from riveg_client.api.operations import info, livez, readyz
from riveg_client.api.recognition import smner, smner_batch
from riveg_client.models import (
    BatchRequest,
    BatchResponse,
    Code,
    EntityOutput,
    Health,
    ImageInputType0,
    ImageInputType0Type,
    ImageInputType1,
    ImageInputType1Type,
    Info,
    MaskFormat,
    MaskOutput,
    ProblemBody,
    SmnerOptions,
    SmnerRequest,
    SmnerResponse,
    TypeName,
)

TEXT = "Eileen Collins smiles at NASA in Houston"
LINK = ImageInputType1(type_=ImageInputType1Type.URL, url="https://a.example/b.jpg")


def main(url: str, path: str) -> None:
    client = Client(base_url=url, timeout=120, raise_on_unexpected_status=True)
    data = base64.b64encode(Path(path).read_bytes()).decode()
    picture = ImageInputType0(type_=ImageInputType0Type.BASE64, data=data)
    health(client)
    information(client)
    found(client, picture)
    run_lengths(client, picture)
    errors(client, picture)
    batch(client, picture)


def health(client: Client) -> None:
    for route in (livez, readyz):
        answer = route.sync(client=client)
        assert isinstance(answer, Health), answer
        assert answer.status == "ok", answer


def information(client: Client) -> None:
    answer = info.sync(client=client)
    assert isinstance(answer, Info), answer
    assert answer.pack.name == "nano", answer
    assert "segmenter" in [model.role for model in answer.models], answer
    assert MaskFormat.RLE in answer.mask_formats, answer
    assert answer.limits.max_text_chars >= len(TEXT), answer


def found(client: Client, picture: ImageInputType0) -> None:
    body = SmnerRequest(text=TEXT, image=picture, id="a post")
    answer = smner.sync(client=client, body=body)
    assert isinstance(answer, SmnerResponse), answer
    assert answer.id == "a post", answer
    assert (answer.image.width, answer.image.height) == (256, 256), answer
    for entity in answer.entities:
        assert entity.text == TEXT[entity.start : entity.end], entity
    person = only(answer.entities, "Eileen Collins")
    assert person.type_ is TypeName.PER, person
    assert 0 < person.score <= 1, person
    assert person.groundable is True, person
    x1, y1, x2, y2 = person.box
    assert 0 <= x1 < x2 <= 256 and 0 <= y1 < y2 <= 256, person
    assert isinstance(person.mask, MaskOutput), person
    assert person.mask.size == [256, 256], person
    assert isinstance(person.mask.counts, str) and person.mask.counts, person
    assert answer.timings_ms.total > 0, answer


def run_lengths(client: Client, picture: ImageInputType0) -> None:
    options = SmnerOptions(mask_format=MaskFormat.RLE_COUNTS)
    answer = smner.sync(client=client, body=SmnerRequest(text=TEXT, image=picture, options=options))
    assert isinstance(answer, SmnerResponse), answer
    counts = only(answer.entities, "Eileen Collins").mask.counts
    assert isinstance(counts, list) and sum(counts) == 256 * 256, counts
    assert sum(counts[1::2]) > 0, "the mask has pixels"


def errors(client: Client, picture: ImageInputType0) -> None:
    empty = smner.sync_detailed(client=client, body=SmnerRequest(text="", image=picture))
    assert empty.headers["content-type"] == "application/problem+json", empty
    assert_problem(empty.parsed, 422, Code.INVALID_INPUT)
    link = smner.sync(client=client, body=SmnerRequest(text=TEXT, image=LINK))
    assert_problem(link, 422, Code.URL_INPUT_DISABLED)


def batch(client: Client, picture: ImageInputType0) -> None:
    posts = [SmnerRequest(text=TEXT, image=picture), SmnerRequest(text=TEXT, image=LINK)]
    answer = smner_batch.sync(client=client, body=BatchRequest(inputs=posts))
    assert isinstance(answer, BatchResponse), answer
    good, bad = answer.outputs
    assert good.status == 200 and isinstance(good.result, SmnerResponse), good
    assert bad.status == 422, bad
    assert_problem(bad.error, 422, Code.URL_INPUT_DISABLED)


def assert_problem(problem: object, status: int, code: Code) -> None:
    assert isinstance(problem, ProblemBody), problem
    assert problem.status == status, problem
    assert problem.code is code, problem
    assert problem.type_ == f"urn:riveg:problem:{code}", problem
    assert problem.title and problem.detail and problem.instance, problem


def only(entities: list[EntityOutput], text: str) -> EntityOutput:
    matching = [entity for entity in entities if entity.text == text]
    assert len(matching) == 1, entities
    return matching[0]


main(*sys.argv[1:])
