"""The lab: a local web page on which two networks train side by side, and every layer's gradient shows."""
