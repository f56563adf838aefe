# Fourth act: What the measures say of the study's questions and of the original study's claims.
