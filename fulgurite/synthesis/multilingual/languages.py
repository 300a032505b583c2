"""Languages: their names, which one a text is in (lingua), and words of scripts that are written without spaces."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

__all__ = ["WORD", "check_detector", "detect", "name_of", "other_language"]

_NAMES = (
    "aa Afar,ab Abkhazian,ae Avestan,af Afrikaans,ak Akan,am Amharic,an Aragonese,ar Arabic,as Assamese,av Avaric,ay Aymara,"
    "az Azerbaijani,ba Bashkir,be Belarusian,bg Bulgarian,bi Bislama,bm Bambara,bn Bengali,bo Tibetan,br Breton,bs Bosnian,"
    "ca Catalan,ce Chechen,ch Chamorro,co Corsican,cr Cree,cs Czech,cu Church Slavonic,cv Chuvash,cy Welsh,da Danish,de German,"
    "dv Divehi,dz Dzongkha,ee Ewe,el Greek,en English,eo Esperanto,es Spanish,et Estonian,eu Basque,fa Persian,ff Fulah,"
    "fi Finnish,fj Fijian,fo Faroese,fr French,fy Western Frisian,ga Irish,gd Scottish Gaelic,gl Galician,gn Guarani,gu Gujarati,"
    "gv Manx,ha Hausa,he Hebrew,hi Hindi,ho Hiri Motu,hr Croatian,ht Haitian Creole,hu Hungarian,hy Armenian,hz Herero,"
    "ia Interlingua,id Indonesian,ie Interlingue,ig Igbo,ii Sichuan Yi,ik Inupiaq,io Ido,is Icelandic,it Italian,iu Inuktitut,"
    "ja Japanese,jv Javanese,ka Georgian,kg Kongo,ki Kikuyu,kj Kuanyama,kk Kazakh,kl Greenlandic,km Khmer,kn Kannada,ko Korean,"
    "kr Kanuri,ks Kashmiri,ku Kurdish,kv Komi,kw Cornish,ky Kyrgyz,la Latin,lb Luxembourgish,lg Ganda,li Limburgish,ln Lingala,"
    "lo Lao,lt Lithuanian,lu Luba-Katanga,lv Latvian,mg Malagasy,mh Marshallese,mi Maori,mk Macedonian,ml Malayalam,mn Mongolian,"
    "mr Marathi,ms Malay,mt Maltese,my Burmese,na Nauru,nb Norwegian Bokmål,nd North Ndebele,ne Nepali,ng Ndonga,nl Dutch,"
    "nn Norwegian Nynorsk,no Norwegian,nr South Ndebele,nv Navajo,ny Chichewa,oc Occitan,oj Ojibwa,om Oromo,or Odia,os Ossetian,"
    "pa Punjabi,pi Pali,pl Polish,ps Pashto,pt Portuguese,qu Quechua,rm Romansh,rn Rundi,ro Romanian,ru Russian,rw Kinyarwanda,"
    "sa Sanskrit,sc Sardinian,sd Sindhi,se Northern Sami,sg Sango,si Sinhala,sk Slovak,sl Slovenian,sm Samoan,sn Shona,so Somali,"
    "sq Albanian,sr Serbian,ss Swati,st Sotho,su Sundanese,sv Swedish,sw Swahili,ta Tamil,te Telugu,tg Tajik,th Thai,ti Tigrinya,"
    "tk Turkmen,tl Tagalog,tn Tswana,to Tonga,tr Turkish,ts Tsonga,tt Tatar,tw Twi,ty Tahitian,ug Uyghur,uk Ukrainian,ur Urdu,"
    "uz Uzbek,ve Venda,vi Vietnamese,vo Volapük,wa Walloon,wo Wolof,xh Xhosa,yi Yiddish,yo Yoruba,za Zhuang,zh Chinese,zu Zulu"
)
_LANGUAGES: dict[str, str] = dict(entry.split(" ", 1) for entry in _NAMES.split(","))  # type: ignore[misc]
_UNSPACED = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
)
# Words; of Chinese, Japanese, Thai, Lao, Burmese and Khmer, whose words no space divides, each character by itself.
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_DENSE = re.compile(rf"[{_UNSPACED}\uac00-\ud7af]")
_FEWEST = 20  # letters that tell a language; of scripts without spaces a third of them


def name_of(code: str) -> str:
    """The English name of a language.

    Args:
        code: its two letters (ISO 639-1).

    Raises:
        ValueError: there is no such language.
    """
    if code not in _LANGUAGES:
        raise ValueError(
            f"synthesize: no language {code!r}; allowed are the two letters of ISO 639-1, such as en, zh, es, ru, fr or sw"
        )
    return _LANGUAGES[code]


def check_detector(languages: list[str] | None = None) -> None:
    """Says before anything is asked that languages cannot be told.

    Args:
        languages: two letters each, which have to be among those that are told apart; None for no matter which.

    Raises:
        ImportError: lingua is not installed.
        ValueError: lingua does not know one of the languages.
    """
    _detector()
    from lingua import Language

    known = sorted(language.iso_code_639_1.name.lower() for language in Language.all())
    for code in languages or ():
        if code == "no":
            raise ValueError("synthesize: lingua does not know 'no'; allowed are nb and nn, the two kinds of Norwegian")
        if code not in known:
            raise ValueError(
                f"synthesize: lingua does not know the language {code!r}; allowed are {', '.join(known)}; for any other one leave "
                "the check of languages out"
            )


def detect(text: str) -> str | None:
    """The language of a text, as two letters; None where lingua cannot tell.

    Args:
        text: prose.

    Raises:
        ImportError: lingua is not installed.
    """
    found = _detector().detect_language_of(text)
    return None if found is None else str(found.iso_code_639_1.name).lower()


def other_language(text: str, wanted: str) -> str | None:
    """The language of a text, if it is not the one that is wanted; None where it is, or where the text is too short to tell.

    Args:
        text: prose, without code and formulas.
        wanted: two letters.
    """
    letters = [letter for letter in text if letter.isalpha()]
    weight = sum(3 if _DENSE.match(letter) else 1 for letter in letters)
    if weight < _FEWEST:
        return None
    found = detect(text)
    return None if found == wanted else found or "none that is known"


@cache
def _detector() -> Any:
    try:
        from lingua import LanguageDetectorBuilder
    except ImportError as error:
        raise ImportError("synthesize: languages are told by lingua; pip install 'fulgurite[synthesis]'") from error
    return LanguageDetectorBuilder.from_all_languages().build()
