"""Which tool a text asks for, and with which arguments: the demo model's rules for tools."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201d]+)\u201d|(?<!\w)\'([^\']+)\'(?!\w)')
_PHRASE = re.compile(r"(?i)\b(?:in|at|for|near|of|about|from|to|on|named|called)\s+(?:the\s+)?(.+)")
_SUBJECT = re.compile(
    r"(?i)\b(?:do|does|did|is|are|will|can)\s+(?:the\s+|an?\s+)?([\w' -]+?)\s+(\w+)\s*[?.!]*\s*$"
)
_FILLER = re.compile(r"(?i),?\s+(?:for\s+)?(?:today|tonight|tomorrow|(?:right )?now|please)\b")
_VALUE = r"""("[^"]+"|\u201c[^\u201d]+\u201d|'[^']+'|.+?)(?=\s+and\s|[,)]|[.?!]*\s*$|[.?!]\s)"""
_INVENTED: dict[str, Any] = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}


class Tool(NamedTuple):
    """A bound tool, as far as the rules need it."""

    name: str
    description: str
    parameters: dict[str, dict[str, Any]]
    required: list[str]

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any]) -> "Tool":
        """Read a tool's JSON schema."""
        function = schema["function"]
        parameters = function.get("parameters") or {}
        return cls(
            function["name"],
            function.get("description") or "",
            parameters.get("properties") or {},
            parameters.get("required") or [],
        )

    @property
    def words(self) -> set[str]:
        """The words of the name that say what it does: ``{"weather"}`` for ``get_weather``."""
        spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name).replace("_", " ").replace("-", " ")
        words = {*stems(spaced)}
        return words - _GENERIC_WORDS or words

    @property
    def topics(self) -> set[str]:
        """What else it is about, by its description, apart from the names of its arguments."""
        arguments = {*stems(" ".join(self.parameters).replace("_", " "))}
        return {*stems(self.description)} - _GENERIC_WORDS - _LITTLE_WORDS - arguments

    def is_named_in(self, text: str) -> bool:
        """Whether the text says the tool's own name, as code or after "use"."""
        name = re.escape(self.name)
        form = rf"\b{name}\s*\(|\b(?:use|call|run)\s+(?:the\s+)?(?:tool\s+)?{name}\b"
        return bool(re.search(rf"\b{name}\b" if "_" in self.name else form, text, re.IGNORECASE))

    def is_asked_for_in(self, text: str) -> bool:
        """Whether the text is a request that mentions what the tool does."""
        words = stems(text)
        if "?" not in text and not (_REQUEST_WORDS | self.words).intersection(words[:1]):
            return False
        if self.words.intersection(words):
            return True
        # A word of the description alone may be chance; with its arguments it is none.
        return bool(self.topics.intersection(words)) and {*self.required} <= {*self.arguments(text)}

    def match(self, text: str) -> tuple[bool, int, int]:
        """How well the text fits the tool; more is better."""
        words = {*stems(text)}
        return self.is_named_in(text), len(self.words & words), len(self.topics & words)

    def arguments(self, text: str, *, invent: bool = False) -> dict[str, Any]:
        """Find the arguments in a text; `invent` makes up the required ones it does not give."""
        tail = self._after_mention(text)
        call = re.match(r"\s*\((.*?)\)", tail)
        written = [part.strip() for part in call[1].split(",")] if call else []
        positional = [part for part in written if part and "=" not in part]
        numbers = _NUMBER.findall(tail) or _NUMBER.findall(text)
        strings = ["".join(found) for found in _QUOTED.findall(tail) or _QUOTED.findall(text)]
        if not strings and (subject := self._subject(text)):
            strings = [subject]
        if not strings and (phrase := _PHRASE.search(_FILLER.sub("", tail))):
            # "in San Francisco, CA" is one value only where no other argument can follow.
            alone = len(self.parameters) == 1
            value = phrase[1].rstrip(" .?!,")
            strings = [value if alone else re.split(r",|\s(?:and|with)\s", value)[0]]
        found: dict[str, Any] = {}
        for key, schema in self.parameters.items():
            kind = _kind(schema)
            value = _named_value(key, schema, text)
            pool = positional or (numbers if kind in ("integer", "number") else strings)
            if value is None and "enum" in schema:
                value = next((one for one in schema["enum"] if stem(str(one)) in stems(text)), None)
            elif value is None and pool and kind in ("integer", "number", "string"):
                value = _converted(pool.pop(0), schema)
            if value is None and invent and key in self.required:
                value = schema.get("enum", [_INVENTED.get(kind, text)])[0]
            if value is not None:
                found[key] = value
        return found

    def _subject(self, text: str) -> str | None:
        """What stands between the verb and what is asked of it: "does the museum open"."""
        words = self.words | self.topics
        for subject, verb in _SUBJECT.findall(_FILLER.sub("", text)):
            if words.intersection(stems(verb)) and not _LITTLE_WORDS.issuperset(stems(subject)):
                return str(subject)
        return None

    def _after_mention(self, text: str) -> str:
        name = re.search(rf"(?<![^\W_]){re.escape(self.name)}(?![^\W_])", text, re.IGNORECASE)
        if name:
            return text[name.end() :]
        ends = [found.end() for found in re.finditer(r"\w+", text) if stem(found[0]) in self.words]
        return text[ends[-1] :] if ends else text


def stems(text: str) -> list[str]:
    """The words of a text without their endings."""
    return [stem(word) for word in re.findall(r"\w+", text)]


def stem(word: str) -> str:
    """Return "open" for "opens", "opened" and "opening", and "order" for "Orders"."""
    word = word.lower()
    for ending in ("ing", "ed", "es", "s"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 2 and not word.endswith("ss"):
            return rest.removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the JSON type of an argument, or its first one where it may have several."""
    options = [schema, *schema.get("anyOf", ())]
    return next((str(each["type"]) for each in options if "type" in each), "string")


def _converted(value: str, schema: Mapping[str, Any]) -> Any:
    """Return a piece of text as an argument's type, None if it is no such thing."""
    kind = _kind(schema)
    value = value.strip().strip("\"'\u201c\u201d")
    if kind in ("integer", "number"):
        if not _NUMBER.fullmatch(value) or (kind == "integer" and "." in value):
            return None
        return float(value) if "." in value else int(value)
    if kind == "boolean":
        return {"true": True, "yes": True, "false": False, "no": False}.get(value.lower())
    return value if kind == "string" and value else None


def _named_value(key: str, schema: Mapping[str, Any], text: str) -> Any:
    """Return the value that follows an argument's name: "city Paris", "city=Paris"."""
    stem, _, suffix = key.rpartition("_")
    name = re.escape(key).replace("_", "[ _]")
    if stem and suffix in ("id", "name", "number"):
        name = rf"{re.escape(stem)}(?:[ _]{suffix})?"
    forms = (
        rf"\b{name}\s*(?:=|:|\bis\b|\bof\b)\s*{_VALUE}",
        rf"\b(?:with|and|using)\s+(?:the\s+|an?\s+)?{name}\s+{_VALUE}",
        rf"\b{name}\s+(?-i:(?=[\"\u201c'\dA-Z-])){_VALUE}",
    )
    for form in forms:
        for found in re.finditer(form, text, re.IGNORECASE):
            if (value := _converted(found[1], schema)) is not None:
                return value
    return None


_GENERIC_WORDS = {
    *stems("a do fetch find for get give look lookup make my of run search tell the to tool up")
}
_LITTLE_WORDS = {
    *stems(
        "a about all an and are at be by can does every from has have he how i in is it its many "
        "much name number of on one or return she some that the their there they this town two "
        "user was we what when where which who why will with you your"
    )
}
_REQUEST_WORDS = {
    *stems(
        "call can check could does find get give how is look please run search show tell use what "
        "when where which who will would"
    )
}
