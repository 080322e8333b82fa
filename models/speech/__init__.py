"""Speech recognition: decoding of untrusted audio, and Whisper through CTranslate2."""
