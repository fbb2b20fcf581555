"""Page tables as hardware reads them: one contract, thin formats, one walker."""
