"""Streamlit widgets that pages share; the only package, beside pages/, that draws on a page."""
