"""Whatever predicts scores of motifs from known ones: the dish and its rivals."""
