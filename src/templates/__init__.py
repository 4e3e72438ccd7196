"""List prompt templates: strings where "{c}" is the class name; the first of each list is the training prompt."""
