"""From labelled mail to a model version. The only package that imports torch."""
