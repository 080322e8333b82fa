"""The languages of speech: ISO 639-1 codes (where there is one) and their English names."""

from collections.abc import Iterable, Mapping

from domain.errors import InvalidRequest

# fmt: off
LANGUAGES: Mapping[str, str] = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani", "ba": "Bashkir",
    "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan", "br": "Breton", "bs": "Bosnian",
    "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fo": "Faroese",
    "fr": "French", "gl": "Galician", "gu": "Gujarati", "ha": "Hausa", "haw": "Hawaiian", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian", "hy": "Armenian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jw": "Javanese", "ka": "Georgian",
    "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean", "la": "Latin", "lb": "Luxembourgish",
    "ln": "Lingala", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy", "mi": "Maori",
    "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese",
    "my": "Myanmar", "ne": "Nepali", "nl": "Dutch", "nn": "Nynorsk", "no": "Norwegian", "oc": "Occitan",
    "pa": "Punjabi", "pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian",
    "sa": "Sanskrit", "sd": "Sindhi", "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian", "sn": "Shona",
    "so": "Somali", "sq": "Albanian", "sr": "Serbian", "su": "Sundanese", "sv": "Swedish", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "tg": "Tajik", "th": "Thai", "tk": "Turkmen", "tl": "Tagalog", "tr": "Turkish",
    "tt": "Tatar", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "yi": "Yiddish",
    "yo": "Yoruba", "yue": "Cantonese", "zh": "Chinese",
}
# fmt: on
MAX_LANGUAGES = 20
_CODES = {name.lower(): code for code, name in LANGUAGES.items()}


def language_code(text: str | None) -> str | None:
    """The code of the language that `text` names by code or English name; None for nothing, and for `auto`.

    Raises InvalidRequest naming `language`.
    """
    wanted = (text or "").strip().lower()
    if wanted in ("", "auto"):
        return None
    code = wanted if wanted in LANGUAGES else _CODES.get(wanted)
    if code is None:
        raise InvalidRequest(
            f"language '{wanted[:40]}' is not known: give an ISO 639-1 code such as 'en', an English name such as "
            "'English', or 'auto'",
            field="language",
        )
    return code


def language_codes(texts: Iterable[str]) -> tuple[str, ...]:
    """The codes of several languages to choose among, in order, each once. Raises InvalidRequest naming `languages`."""
    codes: dict[str, None] = {}
    for text in texts:
        try:
            code = language_code(text)
        except InvalidRequest as error:
            raise InvalidRequest(str(error), field="languages") from None
        if code is None:
            raise InvalidRequest("languages are named one by one: 'auto' is not a language", field="languages")
        codes[code] = None
    if len(codes) > MAX_LANGUAGES:
        raise InvalidRequest(f"languages must be at most {MAX_LANGUAGES}", field="languages")
    return tuple(codes)
